"""Preparing a data set: order, files that cannot be read, nothing half-written."""

import fcntl
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import odd_films
import pytest
from films import custom_set, film
from PIL import Image
from preparations import InProcess
from written_films import decode_all

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.images import resize_frame
from data_pipelines.decoding.workers import Workers
from data_pipelines.feeding.split import load_split
from data_pipelines.preparing import prepare as module
from data_pipelines.preparing.provenance import read_provenance

SPLITS = ("train", "validation", "test")


@pytest.fixture
def source(tmp_path):
    return custom_set(tmp_path)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Only what is said to be about processes starts some."""
    own = InProcess()
    monkeypatch.setattr(module, "Workers", lambda *_: own)
    return own


def prepare(source, output="out", **options):
    return module.prepare(
        "custom",
        source / output,
        videos=source / "videos",
        annotations=source / "rows.csv",
        **{"num_frames": 2, "image_size": 16, **options},
    )


def report(path):
    return json.loads((path / "files.json").read_text())


def content(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_prepared_is_what_is_loaded(source, capsys):
    path = prepare(source)
    assert capsys.readouterr().out == ""
    for name in SPLITS:
        split = load_split(path, name)
        assert split.video_ids == [f"{name}1", f"{name}0"]
        assert split.captions == [
            f"{name} {i} said {c}" for i in (1, 0) for c in (0, 1)
        ]
        assert split.video_of_caption.tolist() == [0, 0, 1, 1]
        assert split.extras == [{}] * 2
    assert report(path) == {name: [] for name in SPLITS}
    assert [x.name for x in (source / "out").rglob("*.partial")] == []


def test_records_name_their_features_in_order(source):
    """Unsorted, the same data give other bytes in another process."""
    path = prepare(source)
    for shard in path.glob("*.tfrecord*"):
        content = shard.read_bytes()
        names = (b"captions", b"extras", b"frames", b"video_id")
        # As protobuf writes a string: its length before it.
        places = [content.index(bytes([len(name)]) + name) for name in names]
        assert places == sorted(places)


def test_what_is_there_is_not_made_again(source, here):
    path = prepare(source)
    here.done.clear()
    assert prepare(source) == path
    assert here.done == []
    (source / "rows.csv").write_text("video,caption,split\ntrain0.mp4,other,train\n")
    with pytest.raises(UserError, match="was prepared from other annotation files"):
        prepare(source)


def test_every_file_that_is_not_clean_is_in_the_report(source):
    videos = source / "videos"
    custom_set(source, train=6)
    (videos / "train0.mp4").write_bytes(b"no video" * 100)
    (videos / "train1.mp4").unlink()
    whole = film(videos / "train2.mp4", frames=200).read_bytes()
    (videos / "train2.mp4").write_bytes(whole[: len(whole) // 2])
    film(videos / "train3.mp4", frames=1)
    (videos / "train4.mp4").write_bytes(whole + bytes(2 << 20))
    path = prepare(source, max_megabytes=1)
    assert load_split(path, "train").video_ids == ["train5", "train3"]
    found = {line["video_id"]: line["status"] for line in report(path)["train"]}
    assert found == {
        "train0": "unreadable",
        "train1": "missing",
        "train2": "unreadable",
        "train3": "short",
        "train4": "too_large",
    }
    assert read_provenance(path)["splits"]["train"]["left_out"] == 4
    assert module.report_lines(path)[0].startswith(
        "train: 2 videos, 4 captions, 4 left out, 1 too_large, 1 short, 2 unreadable"
    )


def test_pixels_that_are_not_square(source):
    path = odd_films.with_aspect(source / "videos" / "train0.mp4", 2, 1)
    odd_films.hdr(source / "videos" / "train1.mp4")
    wide = np.asarray(Image.fromarray(decode_all(path)[1]).resize((128, 48), 3))
    prepared = {}
    for ignored in (False, True):
        made = prepare(
            source, f"out{ignored}", ignore_pixel_aspect=ignored, image_size=32
        )
        split = load_split(made, "train")
        row = split.video_ids.index("train0")
        jpeg = split.frames[row][0]
        prepared[ignored] = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
        notes = {x["video_id"]: x["status"] for x in report(made)["train"]}
        expected = {"train1": "hdr"} | ({} if ignored else {"train0": "stretched"})
        assert notes == expected
        about = read_provenance(made)["pixel_aspect"]
        assert about.startswith("ignored" if ignored else "stretched")
        with pytest.raises(UserError, match="--ignore_pixel_aspect; remove it"):
            prepare(
                source, f"out{ignored}", ignore_pixel_aspect=not ignored, image_size=32
            )
    square = resize_frame(decode_all(path)[1], 32)
    assert np.abs(prepared[False] - resize_frame(wide, 32)).mean() < 8
    assert np.abs(prepared[True] - square).mean() < 8
    assert np.abs(prepared[True] - resize_frame(wide, 32)).mean() > 16


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda x: x.write_bytes(b"none")])
def test_a_gap_in_a_split_that_judges_is_refused_first(source, here, split, damage):
    damage(source / "videos" / f"{split}0.mp4")
    with pytest.raises(UserError, match=rf"{split} video {split}0: .*--allow-missing"):
        prepare(source)
    # Nobody waited for the training videos.
    assert not any(name.startswith("train") for name in here.done)
    assert not module.prepared_path("custom", source / "out", 2, 16).exists()
    path = prepare(source, allow_missing_test=True)
    assert load_split(path, split).video_ids == [f"{split}1"]
    assert read_provenance(path)["splits"][split]["left_out"] == 1


def test_a_wrong_folder_is_said_to_be_wrong(source):
    (source / "videos").rename(source / "gone")
    (source / "videos").mkdir()
    with pytest.raises(UserError, match=r"no video of the train split .*--videos="):
        prepare(source, allow_missing_test=True)
    with pytest.raises(UserError, match="is not a folder; use another --videos"):
        module.prepare(
            "custom",
            source / "out",
            videos=source / "nowhere",
            annotations=source / "rows.csv",
        )
    with pytest.raises(UserError, match="pass --videos and --annotations"):
        module.prepare("custom", source / "out")


def test_going_on_redoes_nothing_and_gives_the_same_bytes(source, here, monkeypatch):
    whole = content(prepare(source, "whole"))
    assert here.done.count("train0.mp4") == 1
    here.done.clear()
    real, left = InProcess.run, [4]

    def broken_off(self, jobs):
        for done in real(self, jobs):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            yield done

    monkeypatch.setattr(InProcess, "run", broken_off)
    with pytest.raises(KeyboardInterrupt):
        prepare(source)
    monkeypatch.setattr(InProcess, "run", real)
    first = list(here.done)
    assert content(prepare(source)) == whole
    assert sorted(here.done) == sorted(f"{x}{i}.mp4" for x in SPLITS for i in (0, 1))
    assert len(first) == 5
    # A file that was changed meanwhile is another file.
    film(source / "videos" / "train0.mp4", grey=200)
    assert content(prepare(source, "changed")) != whole


def test_frames_that_were_cut_off_are_made_again(source, here, monkeypatch):
    whole = content(prepare(source, "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", interrupt_the_last)
        with pytest.raises(KeyboardInterrupt):
            prepare(source)
    kept = [x for x in (source / "out").rglob("frames/*/*/*") if x.is_file()]
    assert len(kept) == 6
    kept[0].write_bytes(kept[0].read_bytes()[:-1])
    here.done.clear()
    assert content(prepare(source)) == whole
    assert len(here.done) == 1


def interrupt_the_last(source, target, replace=os.replace):
    if str(target).endswith("custom/1.0.0"):
        raise KeyboardInterrupt
    replace(source, target)


def test_two_at_once_are_refused(source):
    folder = source / "out/2x16/.custom.partial"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being worked on by another process"):
            prepare(source)
    prepare(source)


# A decoder that hangs on some files and dies of others.
WORKER = """
import os, time
from data_pipelines.decoding import video_job
real = video_job.decode_uniform
def decode(path, count, **options):
    if path.name == "train0.mp4":
        time.sleep(600)
    if path.name == "train1.mp4":
        os.kill(os.getpid(), 9)
    print("noise of a library")
    return real(path, count, **options)
video_job.decode_uniform = decode
video_job.serve()
"""


def test_a_decoder_that_hangs_or_dies_takes_only_its_file(source, monkeypatch):
    custom_set(source, train=4)
    monkeypatch.setattr(module, "Workers", lambda *_: Workers(2, 6.0, WORKER))
    path = prepare(source)
    assert load_split(path, "train").video_ids == ["train3", "train2"]
    found = {line["video_id"]: line["status"] for line in report(path)["train"]}
    assert found == {"train0": "timeout", "train1": "corrupt"}


def test_a_decoder_that_cannot_start_is_no_fault_of_a_video(source, monkeypatch):
    code = "import nothing_of_that_name"
    monkeypatch.setattr(module, "Workers", lambda *_: Workers(1, 60, code))
    with pytest.raises(UserError, match=r"cannot be started.*'nothing_of_that_name'"):
        prepare(source)


def test_a_decoder_that_hangs_ends_with_its_parent(tmp_path):
    pid = tmp_path / "pid"
    worker = (
        "import os, time\nfrom data_pipelines.decoding import video_job\n"
        "video_job._WATCH_SECONDS = 0.1\n"
        "def hang(path, count, **options):\n"
        f" open({str(pid)!r}, 'w').write(str(os.getpid()))\n"
        " time.sleep(600)\n"
        "video_job.decode_uniform = hang\nvideo_job.serve()\n"
    )
    main = (
        "import sys\nfrom data_pipelines.decoding.workers import Workers, DecodeJob\n"
        f"job = DecodeJob({str(film(tmp_path / 'a.mp4'))!r}, '', 2, 16, 1 << 30)\n"
        f"list(Workers(1, 600, {worker!r}).run([job]))\n"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", main], cwd=root)
    wait_until(lambda: pid.exists() and pid.read_text())
    hung = Path("/proc") / pid.read_text()
    assert hung.exists()
    process.kill()
    process.wait()
    wait_until(lambda: not hung.exists() or "(zombie)" in (hung / "status").read_text())


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_no_room_is_no_fault_of_a_video(source, monkeypatch):
    monkeypatch.setattr(module, "Workers", Workers)
    frames = source / "out/2x16/.custom.partial/frames"
    frames.parent.mkdir(parents=True)
    frames.write_text("in the way")
    with pytest.raises(UserError, match=r"frames/.* cannot be written"):
        prepare(source)


def test_beam_is_asked_for_by_name_where_it_is_missing(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"needs Apache Beam.*requirements-beam.txt"):
        prepare(source, runner="DirectRunner")


def test_what_was_never_prepared(source):
    with pytest.raises(UserError, match="holds no prepared data set; run"):
        load_split(source, "train")
    path = prepare(source)
    with pytest.raises(UserError, match="has no split 'dev', only"):
        load_split(path, "dev")


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"num_frames": 10**9}, "num_frames is 1000000000; it must be from 1 to 4,096"),
        ({"image_size": 10**9}, "image_size is 1000000000; it must be"),
        ({"num_frames": 4_096, "image_size": 8_192}, "MiB for each video; take at"),
    ],
)
def test_frames_beyond_what_shards_hold_are_refused_at_once(source, here, sizes, says):
    with pytest.raises(UserError, match=says):
        prepare(source, **sizes)
    assert not here.done


def test_an_output_that_is_not_utf_8_is_refused_at_once(source, here):
    with pytest.raises(UserError, match="is not UTF-8; use another --output"):
        prepare(source, output=os.fsdecode(b"\xff"))
    assert not here.done
