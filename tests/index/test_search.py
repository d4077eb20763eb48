"""The search command: indexing, queries, pages, exports."""

import base64
import datetime
import json
import os
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from colour_model import COLOURS, ColourModel, write_colour
from PIL import Image
from searched_films import HOSTILE, ODD, made  # noqa: F401

from data_pipelines.console.interrupts import Terminated
from data_pipelines.console.printable import printable
from data_pipelines.datasets.demo.clip import render_clip
from data_pipelines.datasets.demo.video_file import write_video
from data_pipelines.datasets.demo.world import sample_clips
from vop_jax import search
from vop_jax.index import update as updates
from vop_jax.index.video_index import VideoIndex
from vop_jax.weights.locate import BACKBONE


def test_indexing_ends_with_a_summary(call, loaded, tmp_path):
    videos = tmp_path / "videos"
    write_colour(videos / "red.mp4", "red")
    (videos / "README.txt").touch()
    for i in range(23):
        (videos / f"empty\n{i:02}.mp4").touch()
    report = tmp_path / "report.json"
    flags = (f"--videos={videos}", f"--output={tmp_path / 'index'}", "--checkpoint=hub")
    status, out, err = call("index", *flags, f"--report={report}")
    assert status == 0
    assert loaded == [("hub", None, "auto")]
    expected = (
        *(r"indexed +1", r"moments +1", r"unreadable +23"),
        *(r"partly readable +0", r"skipped \(not_video\) +1"),
    )
    for line in expected:
        assert re.search(line, out)
    assert out.count("empty\\n") == 20
    assert f"and 3 more; {report} has all" in out
    assert "indexing" in err
    written = json.loads(report.read_text())
    assert len(written["unreadable"]) == 23
    assert set(written["unreadable"][0]) == {"path", "status", "note"}
    assert written["not_video"] == ["README.txt"]
    status, out, err = call("index", *flags)
    assert re.search(r"unchanged +1", out)
    assert err == ""
    status, out, _ = call("index", *flags, "--retry", "--rebuild")
    assert re.search(r"indexed +1", out)


def test_a_shard_of_the_folder(call, loaded, tmp_path, monkeypatch):
    for i in range(8):
        write_colour(tmp_path / "videos" / f"{i}.mp4", (20 * i, 40, 99))
    flags = (
        f"--videos={tmp_path / 'videos'}",
        f"--output={tmp_path / 'index'}",
        "--checkpoint=hub",
    )
    counts = []
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setenv("JOB_COMPLETIONS", "2")
    for shard in ("1/2", "auto"):
        _, out, _ = call("index", *flags, f"--shard={shard}")
        counts.append(int(re.search(r"indexed +(\d+)", out)[1]))
    assert sum(counts) == 8
    assert all(counts)
    status, _, err = call("index", *flags, "--shard=1/2", "--rebuild")
    assert status == 2
    assert "--rebuild drops what other processes store" in err


def test_the_model_is_the_one_of_the_index(call, loaded, made, tmp_path, monkeypatch):
    _, index = made
    call("query", f"--index={index}", "red")
    call("query", f"--index={index}", "red", "--checkpoint=elsewhere")
    assert loaded == [("checkpoint", 2, "float32"), ("elsewhere", 2, "float32")]
    monkeypatch.undo()
    with (
        VideoIndex.open(index) as opened,
        pytest.raises(search.UserError, match="if it has moved, pass --checkpoint"),
    ):
        search.model_of(opened)


def test_an_index_keeps_its_dtype(call, loaded, tmp_path, monkeypatch):
    """What is added to it later, and on another machine, is computed alike."""
    write_colour(tmp_path / "videos" / "red.mp4", "red")
    index = f"--output={tmp_path / 'index'}"
    flags = (f"--videos={tmp_path / 'videos'}", index, "--checkpoint=hub")
    monkeypatch.setattr(ColourModel, "dtype", "bfloat16")
    call("index", *flags)
    call("index", *flags)
    call("query", f"--index={tmp_path / 'index'}", "red")
    call("index", *flags, "--rebuild")
    assert [asked[2] for asked in loaded] == ["auto", "bfloat16", "bfloat16", "auto"]


def test_the_hits_are_printed(call, loaded, made):
    _, index = made
    status, out, _ = call("query", f"--index={index}", "red", "green", "--top=2")
    assert status == 0
    lines = out.splitlines()
    assert lines[:2] == ["red", "rank  similarity        seconds  video"]
    assert lines[2].split()[:3] == ["1", "0.993", "0.0-0.5"]
    assert lines[2].endswith("<img src=x onerror=alert(1)>\\x1b[31m.mp4")
    assert lines[3].split() == ["2", "0.707", "0.0-0.5", "purple.mp4"]
    assert lines[5] == "green"
    assert lines[7].endswith("\\udcff\\udcfe.mp4")
    assert re.fullmatch(
        r"index read in .* ms, embedded in .* ms, searched 4 moments of 4 videos "
        "in .* ms",
        lines[-1],
    )


def test_what_does_not_stand_out_is_said(call, loaded, made):
    _, index = made
    _, out, _ = call("query", f"--index={index}", "a unicorn", "--top=1")
    assert "nothing stands out: unrelated sentences are answered as well" in out
    assert "(weak match)" in out
    _, out, _ = call("query", f"--index={index}", "red", "--top=1")
    assert "weak" not in out + out
    assert "nothing stands out" not in out


def test_json_is_alone_on_the_standard_output(call, loaded, made, tmp_path):
    folder, index = made
    page = tmp_path / "page.html"
    status, out, _ = call(
        "query", f"--index={index}", "green", "--json", f"--html={page}"
    )
    assert status == 0
    found = json.loads(out)
    assert set(found) == {"answers", "videos", "moments", "refused", "seconds"}
    assert (found["videos"], found["moments"], found["refused"]) == (4, 4, [])
    assert found["answers"][0]["query"] == "green"
    best = found["answers"][0]["hits"][0]
    assert (best["rank"], best["start"], best["end"]) == (1, 0.0, 0.5)
    assert (best["weak"], best["exists"], best["copies"]) == (False, True, [])
    # Text that all can read, and the name as it is on disk beside it.
    assert best["video"] == "\ufffd\ufffd.mp4"
    assert base64.b64decode(best["video_bytes"]) == os.fsencode(ODD)
    assert best["file"] == f"{folder}/\ufffd\ufffd.mp4"
    assert base64.b64decode(best["file_bytes"]) == os.fsencode(folder / ODD)
    assert not re.search(r"\\ud[89a-f]", out)
    assert set(found["seconds"]) == {"read", "embed", "search"}
    assert page.exists()


def test_pictures_moments_and_filters(call, loaded, made, tmp_path, monkeypatch):
    _, index = made
    picture = tmp_path / "picture.png"
    Image.new("RGB", (50, 40), COLOURS["blue"]).save(picture)
    query = ("query", f"--index={index}", "--json", "--top=1")

    def found(*flags):
        status, out, err = call(*query, *flags)
        assert status == 0, err
        return json.loads(out)["answers"]

    answers = found("red", f"--image={picture}", "--like=a/blue.mp4@0.2")
    assert [x["query"] for x in answers] == ["red", str(picture), "a/blue.mp4@0.2"]
    assert answers[1]["hits"][0]["video"] == "a/blue.mp4"
    assert answers[1]["hits"][0]["stands_out"] is None
    assert answers[2]["hits"][0]["video"] == "purple.mp4"
    assert found("red", "--folder=a")[0]["hits"][0]["video"] == "a/blue.mp4"
    for same in ("a/", "./a", "a/../a//"):
        hits = found("red", f"--folder={same}")[0]["hits"]
        assert [x["video"] for x in hits] == ["a/blue.mp4"]
    assert found("red", "--folder=.") == found("red")
    assert found("red", "--folder=..")[0]["hits"] == []
    status, _, err = call(*query, "--like=a/blue.mp4@999999999")
    assert status == 2
    assert re.search(
        r"a/blue\.mp4 is [\d.]+ seconds long; 999999999 is behind its end\n$", err
    )
    # Paths as a shell completes them.
    root = made[0]
    monkeypatch.chdir(root / "a")
    for same in (root / "a", f"{root}/a/", "../a", "."):
        hits = found("red", f"--folder={same}")[0]["hits"]
        # What is below the folder of videos comes first.
        expected = found("red")[0]["hits"] if same == "." else None
        assert hits == expected or [x["video"] for x in hits] == ["a/blue.mp4"]
    for same in (root / "a/blue.mp4", "blue.mp4", "../a/blue.mp4", "./a/blue.mp4"):
        assert found(f"--like={same}@0.2")[0] == answers[2]
    for wrong, near in (
        ("A/BLUE.MP4", "a/blue.mp4"),
        ("/elsewhere/blue.mp4", "a/blue.mp4"),
        ("a/bleu.mp4", "a/blue.mp4"),
        ("purpel.mp4", "purple.mp4"),
    ):
        status, _, err = call(*query, f"--like={wrong}@0.2")
        assert status == 2
        assert err.endswith(f"{wrong} is not in the index; did you mean {near}?\n")
    assert found("red", "--min_seconds=1")[0]["hits"] == []
    assert found("red", "--max_seconds=1")[0]["hits"]
    assert found("red", "--until=2001-02-03")[0]["hits"] == []
    # The last day counts, as on the page.
    newest = max(x.stat().st_mtime for x in made[0].rglob("*.mp4"))
    last = datetime.datetime.fromtimestamp(newest)
    assert found("red", f"--until={last:%Y-%m-%d}")[0]["hits"]
    assert found("red", f"--until={last:%Y-%m-%d}T00:00")[0]["hits"] == []
    assert found("red", "--since=2001-02-03T04:05")[0]["hits"]


def test_a_folder_that_has_moved(call, loaded, made, tmp_path):
    folder, index = made
    query = ("query", f"--index={index}", "red", "--json")
    status, _, err = call(*query, f"--videos={tmp_path / 'nowhere'}")
    assert status == 2
    assert "nowhere is not a folder" in err
    _, out, _ = call(*query, f"--videos={tmp_path}")
    hits = json.loads(out)["answers"][0]["hits"]
    assert not any(hit["exists"] for hit in hits)
    assert hits[0]["file"].startswith(str(tmp_path))
    _, out, _ = call("query", f"--index={index}", "red", f"--videos={tmp_path}")
    assert "(missing)" in out
    assert folder.exists()


def test_a_page_escapes_what_it_shows(call, loaded, made, tmp_path):
    _, index = made
    page = tmp_path / "page.html"
    query = 'red "><script>alert(2)</script>'
    status, out, _ = call("query", f"--index={index}", query, f"--html={page}")
    assert status == 0
    assert f"page: {page}" in out
    text = page.read_text()
    assert "<script" not in text
    assert "onerror=alert(1)>" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;\\x1b[31m.mp4" in text
    # A thumbnail of each of four videos, and nothing from elsewhere.
    assert text.count('<img src="data:image/jpeg;base64,') == 4
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<form" not in text
    # A terminal can give bytes that are no text, and codes that steer.
    status, _, _ = call("query", f"--index={index}", "\udcff\x1b", f"--html={page}")
    assert status == 0
    assert "?\\x1b" in page.read_text()
    page.unlink()
    page.mkdir()
    status, _, err = call("query", f"--index={index}", "red", f"--html={page}")
    assert status == 2
    assert "page.html cannot be written (Is a directory); use another file\n" in err


@pytest.mark.parametrize(
    ("error", "word", "code"),
    [(KeyboardInterrupt, "interrupted", 130), (Terminated, "terminated", 143)],
)
def test_a_signal_keeps_what_is_done(
    error, word, code, call, made, tmp_path, monkeypatch
):
    folder, _ = made
    model = ColourModel(fail_at=1, error=error)
    monkeypatch.setattr(search, "load_model", lambda path, dtype: model)
    monkeypatch.setattr(updates, "BATCH", 1)
    output = tmp_path / "index"
    status, _, err = call(
        "index", f"--videos={folder}", f"--output={output}", "--checkpoint=x"
    )
    assert status == code
    assert err.splitlines()[-1] == f"{word}; what is done is kept"
    with VideoIndex.open(output) as index:
        assert index.search(ColourModel(), ["red"]).videos == 1


def test_all_vectors_are_written(call, loaded, made, tmp_path):
    _, index = made
    for name in ("out.parquet", "out.npy"):
        status, out, _ = call(
            "export", f"--index={index}", f"--output={tmp_path / name}"
        )
        assert status == 0
        assert out.startswith("4 moments: ")
    table = pq.read_table(tmp_path / "out.parquet").to_pydict()
    rows = [json.loads(x) for x in (tmp_path / "out.jsonl").read_text().splitlines()]
    vectors = np.load(tmp_path / "out.npy")
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.array(table["vector"], np.float32))
    assert [row["video"] for row in rows] == table["video"]
    names = {
        HOSTILE: None,
        "\ufffd\ufffd.mp4": b"\xff\xfe.mp4",
        "a/blue.mp4": None,
        "purple.mp4": None,
    }
    assert dict(zip(table["video"], table["video_bytes"], strict=True)) == names
    codes = {row["video"]: row.get("video_bytes") for row in rows}
    assert codes == {x: y and base64.b64encode(y).decode() for x, y in names.items()}
    assert {(row["start"], row["end"]) for row in rows} == {(0.0, 0.5)}
    blue = vectors[table["video"].index("a/blue.mp4")]
    np.testing.assert_allclose(blue @ [0, 0, 1], 0.993, atol=1e-3)
    status, _, err = call(
        "export", f"--index={index}", f"--output={tmp_path / 'x.csv'}"
    )
    assert status == 2
    assert "x.csv does not end in .parquet or .npy; name the file FILE.parquet" in err


def test_what_is_shown_steers_nothing():
    assert printable("a\x1b[2Jb\r\n\u202e") == r"a\x1b[2Jb\r\n\u202e"
    assert printable("Ünïcode 東京.mp4") == "Ünïcode 東京.mp4"


def test_a_clip_finds_the_demo_s_videos(call, tmp_path):
    """The whole way, with a real model on rendered clips."""
    from vop_jax.api import load

    videos = tmp_path / "videos"
    videos.mkdir()
    for clip in sample_clips()["test"][::16]:
        write_video(videos / f"{clip.clip_id}.mp4", render_clip(clip, 96))
    flags = (f"--videos={videos}", f"--output={tmp_path / 'index'}")
    status, out, err = call("index", *flags, f"--checkpoint={BACKBONE}")
    assert status == 0, err
    assert re.search(r"moments +16", out)
    query = "a red circle on a black background"
    status, out, _ = call("query", f"--index={tmp_path / 'index'}", query, "--json")
    assert status == 0
    hits = json.loads(out)["answers"][0]["hits"]
    model = load(BACKBONE)
    paths = sorted(videos.iterdir())
    frames = np.stack([model.read_video(path) for path in paths])
    similarity = model.encode_texts([query])[0] @ model.encode_videos(frames).T
    best = np.argsort(-similarity)[:10]
    own = {path.name: value for path, value in zip(paths, similarity, strict=True)}
    for hit in hits:
        assert hit["similarity"] == pytest.approx(own[hit["video"]], abs=1e-3)
    np.testing.assert_allclose(
        # Stored in half precision.
        *([hit["similarity"] for hit in hits], similarity[best]),
        atol=1e-3,
    )
