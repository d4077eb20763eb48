"""JSON of any origin: within bounds, of regular files, held to a description."""

import os
import socket
from typing import Annotated, Literal, NotRequired

import pytest
from annotated_types import Ge, Le, MaxLen
from own_time import at_most
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import (
    Matches,
    StopAtFirst,
    described,
    parse_json,
    read_bytes,
    read_json,
    read_utf8,
)


def test_what_json_says():
    text = '{"a": [1, -2.5e3, "\\ud83d\\udc31", true, null], "": {"b": "\\u0000"}}'
    assert parse_json(text, "x") == {
        "a": [1, -2500.0, "\U0001f431", True, None],
        "": {"b": "\0"},
    }
    assert parse_json(str(-(2**63) + 1), "x") == -(2**63) + 1
    assert parse_json("[" * 64 + "]" * 64, "x")
    assert parse_json("[NaN, -Infinity, 1e999]", "x", finite=False)[1] == -float("inf")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("{", "line 1 column 2"),
        ("[1,]", "is not JSON"),
        ('{"a": 1} x', "is not JSON"),
        ("[" * 65 + "]" * 65, "nested too deeply"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested too deeply"),
        ("[" * 90_000, "nested too deeply"),
        ("[" * 3_000_000, "brackets"),
        ("[" + "{}," * 3_000_000 + "{}]", "brackets"),
        ("NaN", "the number NaN is out of range"),
        ('{"a": -Infinity}', "the number -Infinity is out"),
        ("[1e999]", "the number 1e999 is out"),
        (str(2**63), "the number 9223372036854775808 is out"),
        ("9" * 5000, r"the number 9{40}\.\.\. is out of range"),
        ("-" + "9" * 10_000_000, "out of range"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' appears twice"),
        ('{"' + "k" * 9000 + '": 1, "' + "k" * 9000 + '": 3}', "appears twice"),
        ('["\\ud800"]', "half of a surrogate pair"),
        ('{"x": {"\\uDC00": 1}}', "half of a surrogate pair"),
    ],
    ids=lambda x: x[:24],
)
def test_what_is_refused_is_one_short_line(text, says):
    with at_most(2), pytest.raises(UserError, match=says) as error:
        parse_json(text, "some/file.json")
    assert len(str(error.value)) < 250
    assert "\n" not in str(error.value)
    assert "some/file.json" in str(error.value)


def test_a_doubled_key_is_found_in_linear_time():
    keys = [f'"{i}": 0' for i in range(300_000)]
    with at_most(2), pytest.raises(UserError, match="'299999' appears twice"):
        parse_json("{" + ", ".join([*keys, keys[-1]]) + "}", "x")


def not_regular(kind, path):
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a fifo":
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to(path.with_name("pipe"))
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")


KINDS = ("fifo", "socket", "folder", "link to a fifo", "loop", "device", "missing")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:unclosed")
def test_only_regular_files_are_read(tmp_path, monkeypatch, kind):
    # A socket's path is bounded.
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.json"
    if kind == "socket":
        not_regular(kind, path.relative_to(tmp_path))
    else:
        not_regular(kind, path)
    with pytest.raises(UserError, match=r"x\.json cannot be read \(\w.*\)$") as error:
        read_json(path)
    assert "\n" not in str(error.value)
    if kind in ("fifo", "link to a fifo", "device"):
        assert "it is not a regular file" in str(error.value)


@pytest.mark.parametrize("name", ["n" * 5000, "a/" * 3000, "a\0b"])
def test_a_name_that_no_file_has(tmp_path, name):
    with pytest.raises(UserError, match=r"cannot be read \("):
        read_utf8(tmp_path / name)


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r"it has more than 16 MiB"):
        read_json(path)
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(OSError, match="more than"):
        read_bytes(path, 4)


def test_a_byte_order_mark_and_another_encoding(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(path) == [1]
    path.write_bytes('["ä"]'.encode("latin-1"))
    with pytest.raises(UserError, match=r"is not UTF-8 \(byte 2\)"):
        read_json(path)


class Inner(TypedDict):
    kind: Literal["one", "two"]
    flag: NotRequired[bool]


class Outer(TypedDict):
    count: Annotated[int, Ge(1), Le(10)]
    rate: Annotated[float, Ge(0)]
    name: Annotated[str, MaxLen(5), Matches("^[a-z]+$")]
    inner: NotRequired[Inner]
    many: NotRequired[Annotated[list[str], StopAtFirst()]]
    by_id: NotRequired[dict[str, list[int]]]


GOOD = {"count": 8, "rate": 1, "name": "abc"}


def test_a_value_that_fits_is_given_without_what_is_not_described():
    inner = {"kind": "two", "flag": False}
    found = described(GOOD | {"inner": inner, "other": [1]}, Outer, "x")
    assert found == GOOD | {"inner": inner}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": 8.0}, "f.json: count is 8.0; it must be a whole number"),
        ({"count": True}, "f.json: count is true; it must be a whole number"),
        ({"count": "8"}, 'f.json: count is "8"; it must be a whole number'),
        ({"count": 0}, "f.json: count is 0; it must be at least 1"),
        ({"count": 10**9}, "f.json: count is 1000000000; it must be at most 10"),
        ({"rate": True}, "f.json: rate is true; it must be a number"),
        ({"rate": float("nan")}, "f.json: rate is NaN; it must be at least 0"),
        ({"name": "x" * 10**6}, "f.json: name is"),
        ({"name": "A\n"}, r'f.json: name is "A\n"; it must be of the form ^[a-z]+$'),
        ({"name": ["a"] * 10**5}, "f.json: name is a list of 100000; it must be a str"),
        ({"inner": 3}, "f.json: inner is 3; it must be an object"),
        ({"inner": {}}, "f.json: inner lacks the key 'kind'"),
        ({"inner": {"kind": "one", "flag": "false"}}, 'inner.flag is "false"; it must'),
        ({"inner": {"kind": "x"}}, "inner.kind is \"x\"; it must be 'one' or 'two'"),
        ({"many": [1] * 10**6}, "many[0] is 1; it must be a string"),
        ({"by_id": {"a b": [None]}}, "by_id['a b'][0] is null; it must be a whole"),
    ],
    ids=lambda x: str(x)[:24],
)
def test_what_does_not_fit_is_told_by_its_place(change, says):
    with at_most(2):
        with pytest.raises(UserError) as error:
            described(GOOD | change, Outer, "f.json")
        assert says in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 160
    with pytest.raises(UserError, match=r"lacks the key 'count'"):
        described({}, Outer, "f.json")
