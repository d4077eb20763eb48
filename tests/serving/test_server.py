"""The server: its pages, its files, its JSON."""

import html
import json
import math
import os
import re
import time
import urllib.parse
from pathlib import Path

import pytest
from moment_index import Moment, MomentIndex, colour_tokenizer
from search_servers import HOSTILE, ask, page, serving

from vop_jax.index import flags
from vop_jax.index.answers import Query
from vop_jax.index.days import earliest
from vop_jax.serving import service

ROOT = Path(__file__).parents[2]


def problem_of(text):
    """The error that a page shows."""
    found = re.search(r'role="alert"><span[^>]*>error</span>(.*?)</p>', text)
    return html.unescape(found[1])


def test_the_bare_page_says_what_there_is_and_what_to_ask(server):
    status, text = page(server, "/")
    assert status == 200
    assert "4 videos, 4 moments in " in text
    assert "1 file could not be read" in text
    # Of the examples those whose words the model knows; it knows no dog.
    assert "dog" not in text
    assert 'role="search"' in text
    assert 'class="cards"' not in text


def test_examples_are_what_the_model_knows(server, monkeypatch):
    monkeypatch.setattr(service, "_EXAMPLES", ("a dog runs", "a red circle"))
    with serving(server.service.index, server.service.previews.folder) as other:
        text = page(other, "/")[1]
    assert 'href="/?q=a+red+circle"' in text
    assert "dog" not in text


def test_a_query_is_answered_with_cards(server):
    status, text = page(server, "/?q=red")
    assert status == 200
    cards = text.split('<li class="card')[1:]
    assert len(cards) == 4
    assert 'href="/play?video=sub%2Fred.mp4&amp;start=0&amp;end=3"' in cards[0]
    assert 'src="/thumbnail?moment=m0"' in cards[0]
    assert "0:00 \N{EN DASH} 0:03" in cards[0]
    assert 'href="/?like=sub%2Fred.mp4%401.5"' in cards[0]
    assert f'data-path="{server.service.index.root}/sub/red.mp4"' in cards[0]
    assert "weak match" not in cards[0]
    assert "weak match" in cards[3]
    assert "stretches of 4 moments searched" in text
    (gone,) = (x for x in cards if "gone.mp4" in x)
    assert "file is missing" in gone
    assert "/play?video=gone" not in gone
    (copied,) = (x for x in cards if "green.avi" in x)
    assert "same content: copy.avi" in copied
    assert "Nothing stands out" not in text


def test_what_a_page_shows_is_escaped(server):
    _, text = page(server, "/?q=%22%3E%3Cscript%3Ealert(2)%3C/script%3Ered")
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert urllib.parse.quote_plus(HOSTILE) in text
    for source in re.findall(r'(?:src|href|action)="([^"]*)"', text):
        assert re.match("/(?!/)", source)
    _, text = page(server, "/?q=red%1b%e2%80%ae%ff")
    assert not {"\x1b", "\u202e"} & {*text}


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "The query is empty; describe"),
        ("+++", "The query is empty; describe"),
        ("zebra+runs", "The model knows none of these words"),
        ("red+zebra", "The model does not know: zebra."),
        ("red+" * 20, "longer than the 14 tokens that the model reads"),
    ],
)
def test_a_query_that_the_model_does_not_understand(server, query, says):
    status, text = page(server, f"/?q={query}")
    assert status == 200
    assert says in text
    assert ("cards" in text.split("</style>")[-1]) is bool(query.strip("+"))


def test_a_folder_without_a_video_is_told(server):
    found = json.loads(ask(server, "/api/search?q=red&folder=nothere")[2])
    assert found["answers"][0]["hits"] == []
    told = f"below nothere, which is relative to {server.service.index.root}; there"
    assert told in found["remark"]
    assert told in page(server, "/?q=red&folder=nothere")[1]
    assert "remark" not in json.loads(ask(server, "/api/search?q=red&folder=sub")[2])


def test_of_a_text_without_a_known_word_all_is_weak(tmp_path):
    index = MomentIndex(tmp_path, [Moment("a.mp4", 0, 1, (220, 20, 20))], weak_below=-1)
    with serving(index, tmp_path / "cache") as server:
        for text, weak in (("zxqv", True), ("red+zxqv", False), ("red", False)):
            found = json.loads(ask(server, f"/api/search?q={text}")[2])
            assert [x["weak"] for x in found["answers"][0]["hits"]] == [weak]
            shown = page(server, f"/?q={text}")[1]
            assert ("Nothing stands out" in shown) is weak


def test_nothing_stands_out(tmp_path):
    index = MomentIndex(tmp_path, [Moment("a.mp4", 0, 1, (20, 20, 220))])
    with serving(index, tmp_path / "cache") as server:
        assert "Nothing stands out" in page(server, "/?q=red")[1]
        assert "Nothing stands out" not in page(server, "/?q=blue")[1]
        index.refused = ["x is damaged"]
        assert "1 damaged entry left out" in page(server, "/?q=blue")[1]


def test_filters_reach_the_index(server):
    asked = server.service.index.asked
    _, text = page(
        server,
        "/?q=red&folder=sub/&min_seconds=5&max_seconds=&since=2020-02-01"
        "&until=2020-02-01&top=3&per_video=2",
    )
    queries, *counts, filters = asked[-1]
    assert (queries, counts) == ([Query(text="red")], [3, 2])
    assert filters.folder == "sub"
    assert (filters.min_seconds, filters.max_seconds) == (5.0, None)
    day = time.mktime((2020, 2, 1, 0, 0, 0, 0, 0, -1))
    assert (filters.since, filters.until) == (day, math.nextafter(day + 86400, 0))
    assert 'value="2020-02-01"' in text
    assert '<details class="filters" open>' in text
    # More of its kind is looked for in the same place.
    assert "like=sub%2Fred.mp4%401.5&amp;folder=sub" in text
    assert text.count('<li class="card') == 1
    # As the flags of the command.
    page(server, "/?q=red&since=20200201&until=2020-02-01T12:00")
    filters = asked[-1][-1]
    assert (filters.since, filters.until) == (day, day + 43200)
    assert flags._time(earliest)("20200201") == day
    page(server, "/?like=green.avi@2")
    assert asked[-1][0] == [Query(like=("green.avi", 2.0))]
    page(server, "/?q=red&q=blue")
    assert asked[-1][0] == [Query(text="red"), Query(text="blue")]
    assert asked[-1][1:3] == (10, 1)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("q=" + "x" * 1001, "q"),
        ("&".join(["q=x"] * 17), "q: "),
        ("q=x&top=0", "top: "),
        ("q=x&top=101", "top: "),
        ("q=x&top=1.5", "top: "),
        ("q=x&per_video=0", "per_video: "),
        ("q=x&min_seconds=-1", "min_seconds: "),
        ("q=x&min_seconds=nan", "min_seconds: "),
        ("q=x&since=yesterday", "since: yesterday is not a date; write it as 2026-"),
        ("q=x&since=0", "since: 0 is not a date"),
        ("q=x&until=86400", "until: 86400 is not a date"),
        ("q=x&until=9999-12-31", "until: 9999-12-31 is not a date"),
        ("q=x&since=2026-01-31&since=2026-01-31", "since: it is given 2 times"),
        ("q=x&top=5&top=7", "top: it is given 2 times"),
        ("like=green.avi@1&like=green.avi@2", "like: it is given 2 times"),
        ("q=x&folder=a&folder=", "folder: it is given 2 times"),
        ("q=x&min_seconds=5&max_seconds=1", "min_seconds is more than max_seconds"),
        ("q=x&since=2026-02-01&until=2026-01-01", "since is more than until"),
        ("q=x&since=2026-01-02&until=2026-01-01", "since is more than until"),
        ("q=x&top=1_0", "top: it is not a number"),
        ("q=x&top=%2010", "top: it is not a number"),
        ("q=x&max_seconds=10%20", "max_seconds: it is not a number"),
        ("q=x&min_seconds=1_0", "min_seconds: it is not a number"),
        ("q=x&per_video=%D9%A1", "per_video: it is not a number"),
        ("q=x&q=" + "x" * 1001, "q: "),
        ("like=green.avi", "like: green.avi is not VIDEO@SECONDS"),
        ("like=green.avi@nan", "like: "),
        ("like=green.avi@-1", "like: "),
        ("like=green.avi@1e400", "like: "),
        ("like=@1", "like: "),
        ("like=" + "x" * 4097, "like: "),
        ("folder=" + "x" * 4097, "folder: "),
    ],
)
def test_what_is_asked_is_bounded(server, query, says):
    status, text = page(server, f"/?{query}")
    assert status == 422
    status, headers, content = ask(server, f"/api/search?{query}")
    assert status == 422
    assert headers["Content-Type"] == "application/json"
    (said,) = json.loads(content).values()
    assert problem_of(text) == said
    assert "\n" not in said
    if says != "q":
        assert said.startswith(says)


@pytest.mark.parametrize("path", ["/", "/api/search"])
def test_a_moment_behind_the_end_of_its_video(server, path):
    status, _, content = ask(server, f"{path}?like=green.avi@999")
    assert status == 422
    assert b"like: green.avi is 10 seconds long" in content


def test_an_error_of_a_page_is_a_page(server):
    for path, says in (
        ("/?since=foo", "since: foo is not a date; write it as 2026-01-31"),
        ("/?like=green.avi@999", "like: green.avi is 10 seconds long"),
        ("/?like=none.mp4@1", "like: none.mp4 is not in the index"),
        ("/play?video=none.mp4", "none.mp4 is not in the index"),
        ("/play?video=<b>&start=x", "start: it is not a number"),
    ):
        status, text = page(server, path)
        assert status in (404, 422)
        assert problem_of(text).startswith(says)
        assert '<a href="/">Search</a>' in text
    # What a player or a program reads stays a line.
    _, headers, content = ask(server, "/preview?video=none.mp4")
    assert headers["Content-Type"].startswith("text/plain")
    assert b"\n" not in content


def test_a_near_name_is_suggested(server):
    status, _, content = ask(server, "/api/search?like=GREEN.AVI@1")
    assert status == 404
    said = "like: GREEN.AVI is not in the index; did you mean green.avi?"
    assert json.loads(content) == {"error": said}


def test_a_misspelt_parameter_of_the_interface_is_no_filter(server):
    status, _, content = ask(server, "/api/search?q=red&per_vdeo=3")
    assert status == 422
    (said,) = json.loads(content).values()
    assert said.startswith("per_vdeo: there is no such parameter; there are q, like, ")
    for path in (
        "/play?video=x",
        "/preview?video=x",
        "/file?video=x",
        "/thumbnail?x=y",
    ):
        status, _, content = ask(server, f"{path}&strat=3")
        assert status == 422
        assert b": there is no such parameter; there are " in content
    for path in ("/play", "/preview", "/file"):
        status, _, content = ask(server, f"{path}?video=green.avi&video=sub/red.mp4")
        assert status == 422
        assert b"video: it is given 2 times" in content
    # An address that was passed on carries what others have added.
    assert ask(server, "/?q=red&per_vdeo=3")[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "/file?video=green.avi", "/preview?video=green.avi", "/file?video=x"]
)
def test_a_head_is_that_of_the_answer(server, path):
    status, headers, _ = ask(server, path)
    asked = ask(server, path, method="HEAD")
    assert asked[0] == status
    assert asked[1]["Content-Type"] == headers["Content-Type"]
    assert asked[1]["Content-Length"] == headers["Content-Length"]
    assert asked[2] == b""


@pytest.mark.parametrize(
    "path",
    [
        *("/../etc/passwd", "/green.avi", "/%2e%2e/etc/passwd", "*", "/docs"),
        *("/file?video=../../etc/passwd", "/file?video=/etc/passwd", "/file?video=."),
        *("/file?video=sub/../green.avi", "/file?video=%00", "/file?video=%ff"),
        *("/play?video=none.mp4", "/preview?video=/etc/passwd&start=0&end=1"),
        *("/?like=none.mp4@1", "/api/search?like=/etc/passwd@0"),
        *("/thumbnail?moment=none", "/thumbnail?moment=../m0", "/thumbnail?moment="),
    ],
)
def test_what_is_not_in_the_index_is_not_found(server, path):
    assert ask(server, path)[0] == 404


def test_bytes_that_are_not_text(tmp_path):
    name = os.fsdecode(b"\xff\xfe.mp4")
    index = MomentIndex(tmp_path, [Moment(name, 0, 1, (220, 20, 20))])
    (tmp_path / name).write_bytes(b"0123456789")
    with serving(index, tmp_path / "cache") as server:
        text = page(server, "/?q=red")[1]
        assert "\\udcff\\udcfe.mp4" in text
        assert "video=%FF%FE.mp4" in text
        status, headers, content = ask(server, "/file?video=%FF%FE.mp4")
        assert (status, content) == (200, b"0123456789")
        assert headers["Content-Type"] == "video/mp4"
        page(server, "/?like=%FF%FE.mp4%400.5")
        assert index.asked[-1][0] == [Query(like=(name, 0.5))]


def test_the_json_interface_describes_itself(server):
    status, _, content = ask(server, "/api/search?q=red&q=zebra")
    assert status == 200
    found = json.loads(content)
    assert [x["query"] for x in found["answers"]] == ["red", "zebra"]
    assert "none of these words" in found["remark"]
    assert found["remark"].startswith("'zebra': ")
    assert "remark" not in json.loads(ask(server, "/api/search?q=red")[2])
    status, _, content = ask(server, "/api/search")
    assert (status, json.loads(content)) == (
        422,
        {"error": "q: describe what happens in the video"},
    )
    described = json.loads(ask(server, "/openapi.json")[2])
    assert {"/api/search", "/preview", "/file", "/thumbnail"} == set(described["paths"])
    names = {x["name"] for x in described["paths"]["/api/search"]["get"]["parameters"]}
    assert names == {
        *("q", "like", "folder", "min_seconds", "max_seconds", "since", "until"),
        *("top", "per_video"),
    }
    for about in described["paths"].values():
        assert all(x["description"] for x in about["get"]["parameters"])
    text = page(server, "/api")[1]
    assert "`" not in text
    for name in names | {"/api/search", "/preview"}:
        assert name in text
    assert "//" not in re.sub(r"<!.*?>", "", text).replace("</", "")


def test_the_server_says_what_is_wrong(tmp_path):
    index = MomentIndex(tmp_path, [])
    index.problem = "it was made with another model\x1b"
    with serving(index, tmp_path / "cache") as server:
        status, text = page(server, "/?q=red")
        assert status == 503
        assert "it was made with another model\\x1b" in text
        assert 'value="red"' in text
        status, _, content = ask(server, "/api/search?q=red")
        assert status == 503
        assert "another model" in json.loads(content)["error"]


def test_words_of_the_model():
    """The tokenizer tells what is not understood."""
    remark = colour_tokenizer().remark
    assert remark("a red circle") == ""
    assert remark("") == "Nothing of this text reaches the model."
    assert "none of these words" in remark("zebra")
    assert remark("a zebra and a lion") == "The model does not know: zebra, and, lion."
