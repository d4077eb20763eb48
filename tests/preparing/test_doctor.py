"""What the doctor finds before hours are spent."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import published
import pytest
from films import custom_set, film
from preparations import InProcess
from tiers import slow_except

from data_pipelines.catalog.table import DATASETS
from data_pipelines.console.errors import UserError
from data_pipelines.decoding.video_job import Result
from data_pipelines.doctor import main
from data_pipelines.preparing.diagnosis import diagnose

# There is none for Python 3.13.
TOKENIZER = importlib.util.find_spec("instant_clip_tokenizer") is not None


class Trusting:
    """Believes every file, so that thousands need not be written."""

    def run(self, jobs):
        for job in jobs:
            yield job, Result(total_frames=100)


def look(dataset, folder, annotations=None, **options):
    options = {"workers": InProcess(), **options}
    found = diagnose(dataset, folder / "videos", annotations or folder, **options)
    return found["splits"]


@pytest.mark.parametrize("dataset", slow_except(published.FORMS, "msrvtt_9k"))
def test_counts_are_the_published_ones_when_every_video_is_there(dataset, tmp_path):
    # Where nothing is published of a split its size tests nothing here.
    sizes = {"train": 50, "val": 50} if dataset in ("lsmdc", "vatex") else {}
    published.FORMS[dataset](tmp_path, **sizes)
    (tmp_path / "videos").mkdir()
    for split in DATASETS[dataset].read(tmp_path).splits.values():
        for video in split:
            name = video.files[-1]
            path = tmp_path / "videos" / (name if "/" in name else f"{name}.mp4")
            path.parent.mkdir(exist_ok=True)
            path.touch()
    splits = look(dataset, tmp_path, workers=Trusting())
    for name, (videos, captions) in DATASETS[dataset].published.items():
        split = splits[name]
        assert split["published_videos"] == split["videos"] == videos
        assert split["published_captions"] == captions
        assert captions in (None, split["captions"])
        assert split["missing"] == split["unreadable"] == []


def test_what_is_wrong_is_named(tmp_path):
    folder = custom_set(tmp_path, train=5)
    videos = folder / "videos"
    (videos / "train0.mp4").unlink()
    (videos / "train1.mp4").write_bytes(b"no video" * 100)
    film(videos / "train2.mp4", frames=2)
    rows = folder / "rows.csv"
    more = [
        ("train4.mp4", "train 3 said 0", "train"),
        ("train4.mp4", "a word " * 40, "train"),
        ("train4.mp4", " ", "train"),
    ]
    with rows.open("a") as file:
        file.writelines(",".join(row) + "\n" for row in more)
    splits = look("custom", folder, rows, num_frames=3)
    train = splits["train"]
    assert (train["videos"], train["captions"]) == (3, 8)
    assert train["missing"] == ["train0"]
    assert train["unreadable"] == ["train1"]
    assert train["unreadable_status"] == {"train1": "unreadable"}
    assert train["short"] == ["train2"]
    assert train["duplicate_captions"] == 1
    if TOKENIZER:
        assert train["captions_too_long"] == 1
        assert train["videos_with_captions_too_long"] == ["train4"]
    assert train["empty_captions"] == 1
    for name in ("validation", "test"):
        assert (splits[name]["videos"], splits[name]["captions"]) == (2, 4)
        assert not any(splits[name][key] for key in ("missing", "short", "also_in"))


def test_without_clips_tokenizer_long_captions_are_not_counted(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    folder = custom_set(tmp_path, train=5)
    rows = folder / "rows.csv"
    splits = look("custom", folder, rows, num_frames=3)
    # All of these are too short to need it.
    assert splits["train"]["captions_too_long"] == 0
    assert "not counted" not in capsys.readouterr().err
    with rows.open("a") as file:
        file.write(f"train4.mp4,{'a word ' * 40},train\n")
    splits = look("custom", folder, rows, num_frames=3)
    assert splits["train"]["captions_too_long"] is None
    assert splits["train"]["videos_with_captions_too_long"] == []
    assert splits["test"]["captions_too_long"] == 0
    assert (
        "train: captions that are too long are not counted" in capsys.readouterr().err
    )


def test_flaws_of_the_annotations_are_passed_on(tmp_path):
    published.msvd(tmp_path, 3, 1, 2, test_captions=4)
    ids = (tmp_path / "train_list.txt").read_text().split()
    published.lines(tmp_path / "test_list.txt", [ids[0], ids[0], "nobody"])
    (tmp_path / "videos").mkdir()
    splits = look("msvd", tmp_path)
    assert splits["test"]["duplicate_ids"] == [ids[0]]
    assert splits["test"]["without_captions"] == ["nobody"]
    assert splits["test"]["also_in"] == {"train": [ids[0]]}
    assert splits["train"]["also_in"] == {"test": [ids[0]]}
    assert splits["train"]["missing"] == ids
    assert splits["train"]["videos"] == splits["train"]["captions"] == 0


def test_only_decoding_finds_a_byte_that_flipped(tmp_path):
    folder = custom_set(tmp_path)
    path = film(folder / "videos" / "train0.mp4", frames=100)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start + 1000 : start + 1400] = bytes(400)
    path.write_bytes(content)
    rows = folder / "rows.csv"
    assert look("custom", folder, rows)["train"]["unreadable"] == []
    found = look("custom", folder, rows, decode=True)["train"]
    assert found["unreadable_status"] == {"train0": "corrupt"}


def test_the_table_is_readable(tmp_path, capsys):
    folder = custom_set(tmp_path)
    (folder / "videos" / "test0.mp4").unlink()
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "--dataset=custom",
                f"--videos={folder / 'videos'}",
                f"--annotations={folder / 'rows.csv'}",
            ]
        )
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "published" in out
    assert "test missing: test0" in out


def test_the_command_prints_json_alone(tmp_path):
    folder = custom_set(tmp_path)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "data_pipelines.doctor", "--dataset=custom"),
            *(f"--videos={folder / 'videos'}", f"--annotations={folder / 'rows.csv'}"),
            "--json",
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found = json.loads(done.stdout)
    assert set(found) == {"dataset", "splits"}
    assert found["splits"]["train"]["videos"] == 2


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="renders its own"):
        look("demo", tmp_path)
    with pytest.raises(UserError, match="does not exist; use another --annotations"):
        look("msvd", tmp_path, tmp_path / "none")
    published.msvd(tmp_path, 1, 1, 1, test_captions=1)
    with pytest.raises(UserError, match="is not a folder; use another --videos"):
        look("msvd", tmp_path)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"num_frames": 4_097}, "num_frames is 4097; it must be from 1 to 4,096"),
        ({"num_frames": 10**20}, "num_frames is 1000"),
    ],
)
def test_more_frames_than_shards_hold_are_refused_at_once(tmp_path, sizes, says):
    source = custom_set(tmp_path)
    with pytest.raises(UserError, match=says):
        look("custom", source, source / "rows.csv", **sizes)
