"""What the server plays and shows: files, stretches, thumbnails."""

import re
import time
import urllib.parse

import pytest
from moment_index import Moment
from search_servers import HOSTILE, ask, page, together


@pytest.mark.parametrize("path", ["/play", "/preview"])
@pytest.mark.parametrize(
    ("times", "says"),
    [
        ("start=500", "start: green.avi is 100 seconds long"),
        ("start=500&end=501", "start: green.avi is 100 seconds long"),
        ("start=5&end=2", "end: 2 is before the start, 5"),
        ("start=1&end=3&best=4", "best: 4 is not between 1 and 3"),
        ("start=1&end=3&best=0", "best: 0 is not between 1 and 3"),
    ],
)
def test_times_that_a_video_does_not_have(server, path, times, says):
    status, _, content = ask(server, f"{path}?video=green.avi&{times}")
    assert status == 422
    assert says in content.decode()


def test_a_file_is_served_by_ranges_and_never_as_a_page(server):
    index = server.service.index
    content = (index.root / "sub/red.mp4").read_bytes()
    status, headers, part = ask(server, "/file?video=sub/red.mp4", Range="bytes=10-19")
    assert (status, part) == (206, content[10:20])
    assert headers["Content-Range"] == f"bytes 10-19/{len(content)}"
    assert ask(server, "/file?video=sub/red.mp4")[2] == content
    beyond = f"bytes={len(content)}-"
    assert ask(server, "/file?video=sub/red.mp4", Range=beyond)[0] == 416
    assert ask(server, "/file?video=gone.mp4")[0] == 404
    (index.root / "page.html").write_text("<script>alert(1)</script>")
    index.moments.append(Moment("page.html", 0, 1, (1, 1, 1)))
    try:
        kind = ask(server, "/file?video=page.html")[1]["Content-Type"]
        assert kind == "application/octet-stream"
    finally:
        index.moments.pop()


def test_a_stretch_is_played(server):
    _, text = page(server, "/play?video=green.avi&start=1&end=3")
    source = re.search(r'<video src="([^"]*)"', text)[1].replace("&amp;", "&")
    assert source == "/preview?video=green.avi&start=1&end=3"
    status, headers, content = ask(server, source, Range="bytes=0-")
    assert (status, headers["Content-Type"]) == (206, "video/mp4")
    assert content[4:8] == b"ftyp"
    _, text = page(server, "/play?video=sub/red.mp4&start=1&end=3")
    assert 'src="/file?video=sub%2Fred.mp4#t=1.000,3.000"' in text
    # A preview is shorter than a long stretch; by default it has its length.
    for end in ("&end=99", "&end=", ""):
        text = page(server, f"/play?video=green.avi&start=1{end}")[1]
        assert "0:01 \N{EN DASH} 0:31" in text
    status, text = page(server, f"/play?video={urllib.parse.quote(HOSTILE)}")
    assert status == 422
    assert "is not a readable video" in text
    assert "<img src=x" not in text
    for wrong in (
        "start=-1",
        "start=1_0",
        "end=1_0",
        "end=%2010",
        "best=1_0",
        "start=nan",
        "end=inf",
        "start=1e99",
    ):
        assert ask(server, f"/play?video=green.avi&{wrong}")[0] == 422


def test_many_who_ask_for_one_preview_get_it(server, monkeypatch):
    made = []
    clip = server.service.previews.clip

    def slow(*args):
        made.append(args)
        time.sleep(0.2)
        return clip(*args)

    monkeypatch.setattr(server.service.previews, "clip", slow)
    path = "/preview?video=green.avi&start=0.25&end=2"
    answers = together(20, lambda: ask(server, path))
    assert {x[0] for x in answers} == {200}
    assert len({x[2] for x in answers}) == 1
    assert len(made) < 20


def test_thumbnails_are_kept_by_the_browser(server):
    status, headers, content = ask(server, "/thumbnail?moment=m1")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert content.startswith(b"\xff\xd8")
    assert "immutable" in headers["Cache-Control"]
    assert ask(server, "/?q=red")[1]["Cache-Control"] == "no-store"
