"""Paths in JSON: text that UTF-8 can carry, and the bytes of those that it cannot."""

import json
import os

import pytest

from vop_jax.index.path_text import bytes_of, text_of, with_bytes

ODD = os.fsdecode(b"bad\xff\xfe.mp4")


def test_names_that_differ_stay_different():
    """As escapes, one with the bytes would be called like one with backslashes."""
    names = (
        ODD,
        "bad\\xff\\xfe.mp4",
        "bad\ufffd\ufffd.mp4",
        os.fsdecode(b"bad\xfe\xff.mp4"),
    )
    written = [json.dumps(with_bytes({"video": name})) for name in names]
    assert len({*written}) == len(names)
    for name in names:
        found = bytes_of(name)
        assert os.fsdecode(found if found is not None else text_of(name)) == name
        text_of(name).encode()


def test_lists_and_numbers():
    values = {"rank": 1, "copies": ("a.mp4", ODD), "none": [], "rows": [{"x": 1}]}
    assert with_bytes(values) == {
        "rank": 1,
        "copies": ["a.mp4", "bad\ufffd\ufffd.mp4"],
        "copies_bytes": [None, "YmFk//4ubXA0"],
        "none": [],
        "rows": [{"x": 1}],
    }
    assert with_bytes({"copies": ("a.mp4",)}) == {"copies": ["a.mp4"]}


@pytest.mark.parametrize("half", [0xD800, 0xDFFF])
def test_half_a_character_of_a_query(half):
    assert with_bytes({"query": chr(half)}) == {"query": "\ufffd"}
