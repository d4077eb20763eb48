"""Copies of an index that whoever can write its folder has made, checksum and all."""

import json
import os
import random

import numpy as np
import pytest
from colour_model import ColourModel

from data_pipelines.console.errors import UserError
from data_pipelines.files import replacing
from data_pipelines.files.owners import process_mark
from vop_jax import search
from vop_jax.index import snapshot, snapshot_file
from vop_jax.index.answers import Found
from vop_jax.index.background import Background
from vop_jax.index.meta import Meta
from vop_jax.index.store import Store
from vop_jax.index.view import EXACT_BELOW


@pytest.fixture
def made(folder):
    """An index with its copy."""
    folder.update()
    return folder


def forge(made, change):
    """Writes the copy with one change, under a right stamp and checksum."""
    path = made.index / "snapshot.bin"
    stamp = snapshot_file.stamp_of(path)
    about, arrays = snapshot_file.read(path)
    arrays = {name: value.copy() for name, value in arrays.items()}
    about = change(about, arrays) or about
    size = arrays["vectors"].shape[1]
    snapshot_file.write(path, stamp, about, arrays, size)


def row(**values):
    """Changes columns of the first video."""

    def change(about, arrays):
        first = about["videos"][0][0]
        for name, value in values.items():
            first[snapshot.VideoRow._fields.index(name)] = value

    return change


def record(name, **values):
    """Changes a record."""
    return lambda about, arrays: about["records"][name].update(values)


def entry(name, value):
    """Changes an entry of the JSON."""
    return lambda about, arrays: about.update({name: value})


def replaced(name, place, value):
    """Changes numbers of an array."""

    def change(about, arrays):
        arrays[name][place] = value

    return change


HOSTILE = {
    "a list": lambda about, arrays: [1],
    "text": lambda about, arrays: "text",
    "no videos": entry("videos", []),
    "videos that are numbers": entry("videos", [[5]]),
    "other columns": entry("rows", [["x", "y"]]),
    "remarks that steer": entry("refused", ["\x1b[31mred"]),
    "remarks of numbers": entry("refused", [5]),
    "one remark": entry("refused", "red"),
    "no records": entry("records", []),
    "no identity": entry("records", {}),
    "an identity that is a list": lambda about, arrays: about["records"].update(
        identity=[1]
    ),
    "a background that is a number": lambda about, arrays: about["records"].update(
        background=5
    ),
    "a newer format": record("identity", format=3),
    "frames of text": record("identity", num_frames="12"),
    "other vectors": record("identity", embedding=4),
    "an unknown record": record("identity", more=1),
    "a checkpoint that is a list": record("place", checkpoint=["x"]),
    "videos that are no path": record("place", videos=7),
    "a mean of text": record("background", mean="x"),
    "a mean that is not finite": record("background", mean=float("inf")),
    "a path elsewhere": row(path="../../etc/x.mp4"),
    "a path of a number": row(path=5),
    "a path of half a character": row(path="\ud800.mp4"),
    "a path that is there twice": row(path="red1.mp4"),
    "a status of half a character": row(status="\ud800"),
    "a large number": row(mtime_ns=2**70),
    "another set": row(moment_set=""),
    "another model": row(identity="x"),
    "too few moments": row(moments=0),
    "too many moments": row(moments=9),
    "a removed video": row(status="removed"),
    "an endless video": row(duration=float("inf")),
    "moments of other videos": replaced("first", slice(1, 2), 2),
    "moments of none": replaced("first", slice(None), 0),
    "moments far away": replaced("first", slice(1, 3), [2**63 - 1, -(2**63)]),
    "negative moments": replaced("first", 1, -1),
    "vectors that are no numbers": replaced("vectors", 0, np.nan),
    "vectors that are not finite": replaced("vectors", (0, 0), -np.inf),
    "a time that is none": replaced("starts", 0, np.nan),
    "a negative time": replaced("starts", 0, -1),
    "an end before the start": replaced("ends", 0, -1),
    "no end": replaced("ends", 0, np.inf),
    "a negative number": replaced("numbers", 0, -1),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_no_tables_can_give_is_not_used(made, kind):
    right = made.search("red")
    forge(made, HOSTILE[kind])
    assert snapshot.read(made.index) is None
    assert made.search("red") == right
    # And is written anew.
    assert snapshot.read(made.index) is not None
    assert made.search("red") == right


def test_a_copy_that_is_only_written_again_is_used(made):
    forge(made, lambda about, arrays: about)
    assert snapshot.read(made.index) is not None


def forge_text(made, text, monkeypatch):
    """Writes the copy with other JSON, whatever its limits."""
    monkeypatch.setattr(json, "dumps", lambda *_: text)
    monkeypatch.setattr(snapshot_file, "_is_described", lambda _: True)
    forge(made, lambda about, arrays: about)
    monkeypatch.undo()
    assert (made.index / "snapshot.bin").stat().st_size > len(text)


def test_json_that_is_nested_deeply(made, monkeypatch):
    right = made.search("red")
    forge_text(made, "[" * 100_000 + " " * 4_000_000, monkeypatch)
    assert snapshot.read(made.index) is None
    assert made.search("red") == right


@pytest.mark.parametrize(
    "text", ["[" + "[]," * 10_000 + "1]", "[" + '"ab",' * 10_000 + "1]", "[{" * 1_000]
)
def test_json_of_more_values_than_an_index_has_is_not_parsed(made, text, monkeypatch):
    right = made.search("red")
    forge_text(made, text, monkeypatch)
    monkeypatch.setattr(json, "loads", refused)
    with pytest.raises(snapshot_file.UnusableError, match="brackets and commas"):
        snapshot_file.read(made.index / "snapshot.bin")
    monkeypatch.undo()
    assert made.search("red") == right


def test_a_copy_that_would_not_be_read_is_not_written(made):
    path = made.index / "snapshot.bin"

    def change(about, arrays):
        about["refused"] += ["[,"] * 10_000

    forge(made, change)
    assert not path.exists()
    # Nor does every query try again.
    made.search("red")
    assert not path.exists()


def refused(*_, **__):
    raise AssertionError


def test_stated_lengths_allocate_nothing(made, monkeypatch):
    """Nor does the length of a file with a hole."""
    path = made.index / "snapshot.bin"
    head = bytearray(path.read_bytes()[: snapshot_file._HEAD.size])
    monkeypatch.setattr(np, "empty", refused)
    fields = list(snapshot_file._HEAD.unpack(head))

    def says(counts, length, problem):
        fields[-4:] = counts
        path.write_bytes(snapshot_file._HEAD.pack(*fields))
        os.truncate(path, snapshot_file._HEAD.size + length)
        assert path.stat().st_blocks < 100
        with pytest.raises(snapshot_file.UnusableError, match=problem):
            snapshot_file.read(path)

    most, widest = EXACT_BELOW, snapshot_file._WIDEST
    for counts in ((1, 1, 2**62, 0), (2**63, 1, 1, 0), (0, 0, 0, 2**40)):
        says(counts, 0, "of no index")
    says((most + 1, most + 1, widest, 0), 2**40, "of no index")
    says((1, most, widest + 1, 0), 2**40, "of no index")
    says((2, 1, widest, 0), 2**20, "of no index")
    says((1, most, widest, 0), 8 + 2**40, "do not add up")
    length = sum(x for _, _, x in snapshot_file._layout(1, most, widest).values())
    says((1, most, widest, 0), length, "holes")
    says((1, most, widest, 2**25), length + 2**25, "holes")


def test_no_bit_of_a_copy_is_missed(made):
    path = made.index / "snapshot.bin"
    whole, rng = path.read_bytes(), random.Random(0)
    head = range(snapshot_file._HEAD.size)
    for place in (*head, *rng.sample(range(len(head), len(whole)), 200)):
        data = bytearray(whole)
        data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        # Of the head, four bytes are filling.
        assert (snapshot.read(made.index) is None) == (place not in range(20, 24))


def test_a_pipe_in_its_place_is_not_waited_for(made):
    right = made.search("red")
    path = made.index / "snapshot.bin"
    path.unlink()
    os.mkfifo(path)
    assert made.search("red") == right
    assert made.update().unchanged == 9


def test_a_copy_of_older_tables_is_not_replaced_by_readers(made):
    """While they change, every query would write one."""
    path = made.index / "snapshot.bin"
    before = path.read_bytes()
    store = Store(made.index)
    store.record("other", 1)
    made.search("red")
    assert path.read_bytes() == before


def test_a_link_in_the_place_of_an_unfinished_copy_leads_nowhere(
    made, tmp_path, monkeypatch
):
    monkeypatch.setattr(replacing.secrets, "token_hex", lambda _: "0" * 16)
    path, other = made.index / "snapshot.bin", tmp_path / "other"
    other.write_text("mine")
    path.write_text("damaged")
    name = f".snapshot.bin.{process_mark()}.{'0' * 16}.partial"
    path.with_name(name).symlink_to(other)
    assert made.search("red")
    assert other.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "value"),
    [("identity", [1]), ("place", 5), ("background", 5), ("background", {"mean": "x"})],
)
def test_records_of_the_tables_are_checked_alike(made, name, value, monkeypatch):
    (made.index / "snapshot.bin").unlink()
    real = Store.records
    monkeypatch.setattr(Store, "records", lambda self: real(self) | {name: value})
    with pytest.raises(UserError, match="records that are not its own"):
        made.search("red", ColourModel())


def test_whole_seconds_stay_whole():
    """They are a part of the digest that every row carries."""
    identity = Meta("x", 2, "float32", 3, 8.0).identity | {"moment_seconds": 8}
    meta = Meta.of({"identity": identity})
    assert meta is not None
    assert json.dumps(meta.identity["moment_seconds"]) == "8"
    assert Meta.of({}) is None
    assert Background.of({}) is None


def test_remarks_steer_no_terminal(capsys):
    times = dict.fromkeys(("read", "embed", "search"), 0.0)
    search._print_hits(Found([], 0, 0, ["\x1b[31mred"], times))
    assert "left out: \\x1b[31mred\n" in capsys.readouterr().out
