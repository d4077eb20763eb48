"""The page of results as a file: self-contained, escaped, complete."""

import re

import pytest
from moment_index import Moment, MomentIndex
from search_servers import HOSTILE

from vop_jax.index.answers import Answer, Found, Hit
from vop_jax.index.page import clock, search_page


def found(*hits):
    seconds = {"read": 0.0, "embed": 0.002, "search": 0.001}
    return Found([Answer('red "><script>', list(hits))], 1, 1, [], seconds)


@pytest.fixture
def index(tmp_path):
    return MomentIndex(tmp_path, [Moment(HOSTILE, 3, 70, (220, 20, 20))])


def hit(**named):
    values = dict(zip(Hit._fields, (1, HOSTILE, 3.0, 70.0, 0.5), strict=False))
    values |= {"stands_out": 1.0, "weak": False, "exists": True, "duration": 90.0}
    return Hit(
        **(values | {"copies": ("a\x1b.mp4",), "moment": "m0", "best": 7.0} | named)
    )


def test_the_file_needs_no_server(index):
    text = search_page(index, found(hit(), hit(rank=2, exists=False)))
    assert text.count('src="data:image/jpeg;base64,') == 2
    assert not re.search(r'(src|href|action)="(?!data:)', text)
    for part in ("<script", "<form", "<dialog", "<img src=x", "\x1b", "<button"):
        assert part not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "same content: a\\x1b.mp4" in text
    assert "0:03 \N{EN DASH} 1:10" in text
    assert text.count("file is missing") == 1
    assert "Nothing stands out" not in text


def test_what_is_weak_and_what_is_empty(index):
    text = search_page(index, found(hit(weak=True)))
    assert "Nothing stands out" in text
    assert "weak match" in text
    assert "No video matches." in search_page(index, found())
    index.moments.clear()
    assert "data:image" not in search_page(index, found(hit()))


def test_times_are_those_of_a_player():
    assert [clock(x) for x in (0, 9.9, 60, 3599, 3600, 36061.5)] == [
        *("0:00", "0:09", "1:00", "59:59", "1:00:00", "10:01:01"),
    ]
