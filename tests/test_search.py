"""The search command, its pages and its server."""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from colour_model import COLOURS, ColourModel, write_colour

from data_pipelines.demo.clip import render_clip
from data_pipelines.demo.video_file import write_video
from data_pipelines.demo.world import sample_clips
from vop_jax import search, video_index
from vop_jax.demo import BACKBONE
from vop_jax.search_page import SearchServer, shown
from vop_jax.video_index import VideoIndex

ROOT = Path(__file__).parents[1]
HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m.mp4"
# Bytes that are no UTF-8.
ODD = os.fsdecode(b"\xff\xfe.mp4")


@pytest.fixture
def loaded(monkeypatch):
    """What the command loads, in place of a CLIP."""
    asked = []

    def load_model(checkpoint, num_frames=None):
        asked.append((str(checkpoint), num_frames))
        return ColourModel()

    monkeypatch.setattr(search, "load_model", load_model)
    return asked


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command; gives its status and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["search", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            search.main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of videos with its index."""
    folder = tmp_path_factory.mktemp("made")
    for name, colour in zip((HOSTILE, ODD, "blue.mp4"), COLOURS, strict=True):
        write_colour(folder / "x.mp4", colour).rename(folder / name)
    write_colour(folder / "purple.mp4", (120, 0, 120))
    with VideoIndex.create(folder.parent / "made.index") as index:
        index.update(ColourModel(), folder, "checkpoint")
    return folder, folder.parent / "made.index"


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
    assert loaded == [("hub", None)]
    for line in (r"indexed +1", r"unreadable +23", r"skipped \(not_video\) +1"):
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


def test_the_model_is_the_one_of_the_index(call, loaded, made, tmp_path, monkeypatch):
    _, index = made
    call("query", f"--index={index}", "red")
    call("query", f"--index={index}", "red", "--checkpoint=elsewhere")
    assert loaded == [("checkpoint", 2), ("elsewhere", 2)]
    monkeypatch.undo()
    with (
        VideoIndex.open(index) as opened,
        pytest.raises(search.UserError, match="if it is elsewhere, give --checkpoint"),
    ):
        search.model_of(opened)


def test_the_hits_are_printed(call, loaded, made):
    _, index = made
    status, out, _ = call("query", f"--index={index}", "red", "green", "--top=2")
    assert status == 0
    lines = out.splitlines()
    assert lines[:2] == ["red", "rank  similarity  video"]
    assert lines[2].split()[:2] == ["1", "0.993"]
    assert lines[2].endswith("<img src=x onerror=alert(1)>\\x1b[31m.mp4")
    assert lines[3].split() == ["2", "0.707", "purple.mp4"]
    assert lines[5] == "green"
    assert lines[7].endswith("\\udcff\\udcfe.mp4")
    assert re.fullmatch(
        r"index read in .* ms, embedded in .* ms .*, searched 4 videos in .* ms",
        lines[-1],
    )


def test_json_is_alone_on_the_standard_output(call, loaded, made, tmp_path):
    folder, index = made
    page = tmp_path / "page.html"
    status, out, _ = call(
        "query", f"--index={index}", "green", "--json", f"--html={page}"
    )
    assert status == 0
    found = json.loads(out)
    assert found["answers"][0]["query"] == "green"
    best = found["answers"][0]["hits"][0]
    assert best["rank"] == 1
    # As it is on disk, whatever its bytes.
    assert best["path"] == ODD
    assert best["file"] == str(folder / ODD)
    assert set(found["seconds"]) == {"read", "embed", "search"}
    assert page.exists()


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
    # Four videos of two frames, and nothing from elsewhere.
    assert text.count('<img src="data:image/jpeg;base64,') == 8
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<form" not in text
    # A terminal can give bytes that are no text, and codes that steer.
    status, _, _ = call("query", f"--index={index}", "\udcff\x1b", f"--html={page}")
    assert status == 0
    assert "<h2>?\\x1b</h2>" in page.read_text()


def test_a_page_says_which_videos_have_vanished(call, loaded, tmp_path):
    videos = tmp_path / "videos"
    for name in COLOURS:
        write_colour(videos / f"{name}.mp4", name)
    index, page = f"--index={tmp_path / 'index'}", tmp_path / "page.html"
    call("index", f"--videos={videos}", f"--output={index[8:]}", "--checkpoint=x")
    (videos / "red.mp4").unlink()
    (videos / "blue.mp4").write_text("no video")
    assert call("query", index, "red", f"--html={page}")[0] == 0
    text = page.read_text()
    assert text.count("has vanished since it was indexed") == 1
    assert text.count("cannot be read any more (unreadable)") == 1
    assert text.count('<img src="data:') == 2
    page.unlink()
    page.mkdir()
    status, _, err = call("query", index, "red", f"--html={page}")
    assert status == 2
    assert err.endswith("page.html cannot be written (Is a directory)\n")


@pytest.fixture
def server(made):
    with (
        VideoIndex.open(made[1]) as index,
        SearchServer(("127.0.0.1", 0), index, ColourModel(), 2) as server,
    ):
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def test_the_server_answers_a_query(server):
    answer, text = get(server, "/")
    assert answer.status == 200
    assert "<form" in text
    assert "<img" not in text
    answer, text = get(server, "/?q=blue%20%22%3E%3Cscript%3E")
    assert answer.status == 200
    assert text.count('<img src="data:image/jpeg;base64,') == 4
    assert text.index("blue.mp4") < text.index("purple.mp4")
    assert "<script" not in text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/blue.mp4", "//etc/passwd", "/%2e%2e/etc/passwd", "*"]
)
def test_the_server_has_one_page(server, path):
    answer, text = get(server, path)
    assert answer.status == 404
    assert text == "there is only one page, /"


def test_the_server_answers_to_its_own_name_only(server):
    assert get(server, "/?q=red", Host="evil.example:8000")[0].status == 403
    assert get(server, "/?q=red", Host="localhost:8000")[0].status == 200


def test_the_server_says_what_is_wrong(server, monkeypatch):
    monkeypatch.setattr(server.model, "fingerprint", "ff")
    answer, text = get(server, "/?q=red")
    assert answer.status == 503
    assert "was made with another model" in text


def test_many_ask_at_once(server):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(get(server, "/?q=red")[0]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 8


def test_a_browser_that_goes_away_is_no_error(server, capsys):
    for error, silent in ((BrokenPipeError, True), (ValueError, False)):
        try:
            raise error
        except error:
            server.handle_error(None, ("127.0.0.1", 1))
        assert (capsys.readouterr().err == "") is silent


def test_serving_ends_with_ctrl_c(call, loaded, made, server, monkeypatch):
    _, index = made

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(SearchServer, "serve_forever", interrupted)
    status, out, _ = call("serve", f"--index={index}", "--port=0")
    assert status == 0
    assert "at http://127.0.0.1:" in out
    for port in (server.server_port, 99999):
        status, _, err = call("serve", f"--index={index}", f"--port={port}")
        assert status == 2
        assert err.startswith(f"error: cannot listen at 127.0.0.1:{port} (")


def test_ctrl_c_keeps_what_is_done(call, made, tmp_path, monkeypatch):
    folder, _ = made
    model = ColourModel(fail_at=1, error=KeyboardInterrupt)
    monkeypatch.setattr(search, "load_model", lambda path: model)
    monkeypatch.setattr(video_index, "BATCH", 1)
    output = tmp_path / "index"
    status, _, err = call(
        "index", f"--videos={folder}", f"--output={output}", "--checkpoint=x"
    )
    assert status == 130
    assert err.splitlines()[-1] == "interrupted; what is done is kept"
    with VideoIndex.open(output) as index:
        assert index.search(ColourModel(), ["red"]).videos == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("query --index=none x", "/none does not exist; python -m vop_jax.search"),
        ("query --index={root}/README.md x", "README.md is no index of videos"),
        ("index --videos=none --output=i --checkpoint=c", "/none is no folder; give"),
        ("index --videos=. --output=i --checkpoint=none", "none"),
        ("serve --index=i --port=x", "argument --port: invalid int value: 'x'; see"),
        ("query --index=i", "the following arguments are required: QUERY; see --help"),
    ],
)
def test_a_mistake_is_one_line(arguments, says, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vop_jax.search"),
            *arguments.format(root=ROOT).split(" "),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_shown_steers_nothing():
    assert shown("a\x1b[2Jb\r\n\u202e") == r"a\x1b[2Jb\r\n\u202e"
    assert shown("Ünïcode 東京.mp4") == "Ünïcode 東京.mp4"


def test_a_clip_finds_the_demo_s_videos(call, tmp_path):
    """The whole way, with a real model on rendered clips."""
    from vop_jax.model import load

    videos = tmp_path / "videos"
    videos.mkdir()
    for clip in sample_clips()["test"][::16]:
        write_video(videos / f"{clip.clip_id}.mp4", render_clip(clip, 96))
    flags = (f"--videos={videos}", f"--output={tmp_path / 'index'}")
    assert call("index", *flags, f"--checkpoint={BACKBONE}")[0] == 0
    query = "a red circle on a black background"
    status, out, _ = call("query", f"--index={tmp_path / 'index'}", query, "--json")
    assert status == 0
    hits = json.loads(out)["answers"][0]["hits"]
    model = load(BACKBONE)
    paths = sorted(videos.iterdir())
    frames = np.stack([model.read_video(path) for path in paths])
    similarity = model.encode_texts([query])[0] @ model.encode_videos(frames).T
    best = np.argsort(-similarity)[:10]
    assert [hit["path"] for hit in hits] == [paths[i].name for i in best]
    np.testing.assert_allclose(
        [hit["similarity"] for hit in hits], similarity[best], atol=1e-5
    )
