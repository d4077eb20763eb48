"""Tables whose rows have right checksums and values that no update stores."""

import json
import zlib

import numpy as np
import pyarrow as pa
import pytest
from colour_model import ColourModel

from data_pipelines.console.errors import UserError
from vop_jax.index import snapshot
from vop_jax.index.page import search_page
from vop_jax.index.store import Store
from vop_jax.index.tables import MomentRow, meta_schema, new_id
from vop_jax.search import as_json

VECTOR = np.array([1, 0, 0], np.float16)
INFINITE = float("inf")


@pytest.fixture
def made(folder):
    folder.update()
    return folder


def newest_row(made, store):
    (row,) = [x for x in store.videos()[0] if x.path == "red0.mp4"]
    return row


def store_row(made, times=(), **values):
    """Appends a row of a video, and moments behind the one that it has."""
    store = Store(made.index)
    row = newest_row(made, store)._replace(id=new_id(), **values)
    rows = [
        MomentRow(row.moment_set, i, start, end, VECTOR, b"x")
        for i, (start, end) in enumerate(times, 1)
    ]
    store.append(rows, [row])
    store.close()


def shown(made):
    """What a search says, as JSON and as a page, and what is left out."""
    with made.open() as index:
        found = index.search(ColourModel(), ["red"], top=100)
        text = json.dumps(as_json(index, found), allow_nan=False)
        assert "red" in search_page(index, found)
        return text, found.refused


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"duration": float("nan")}, "duration cannot be"),
        ({"duration": INFINITE}, "duration cannot be"),
        ({"duration": -1.0}, "duration cannot be"),
        ({"duration": 1e300}, "duration cannot be"),
        ({"moments": -7}, "moments cannot be"),
        ({"moments": 2**31 - 1}, "moments cannot be"),
        ({"moments": 0}, "moments are of no set"),
        ({"moment_set": ""}, "moments are of no set"),
        ({"width": -5}, "width cannot be"),
        ({"height": -(2**31)}, "height cannot be"),
        ({"size": -(2**63)}, "size cannot be"),
    ],
)
def test_a_video_that_cannot_be_is_left_out_and_read_again(made, values, says):
    store_row(made, **values)
    text, refused = shown(made)
    assert '"video": "red0.mp4"' not in text
    assert refused == [f"red0.mp4: its row is damaged ({says})"]
    assert made.update().indexed == 1
    text, refused = shown(made)
    assert '"video": "red0.mp4"' in text
    assert not refused


def test_a_video_that_cannot_be_and_is_gone_is_removed(made):
    store_row(made, duration=INFINITE)
    (made.videos / "red0.mp4").unlink()
    assert made.update().removed == 1
    assert not shown(made)[1]


@pytest.mark.parametrize(
    "times",
    [
        (float("nan"), INFINITE),
        (8.0, INFINITE),
        (-5.0, -4.0),
        (-9e300, 2.0),
        (1e300, 1e308),
        (9.0, 8.5),
    ],
)
def test_a_moment_that_cannot_be_is_left_out(made, times):
    store_row(made, [times], moments=2)
    text, refused = shown(made)
    assert '"video": "red0.mp4"' in text
    assert refused == ["red0.mp4: 1 of 2 moments are damaged or missing"]
    # The copy, which is written again, holds what is left.
    assert shown(made)[1] == refused


def test_moments_that_are_not_in_order_are_left_out(made):
    store_row(made, [(50.0, 60.0), (20.0, 30.0), (40.0, 45.0), (60.0, 70.0)], moments=5)
    assert shown(made)[1] == ["red0.mp4: 2 of 5 moments are damaged or missing"]
    with made.open() as index:
        view = index._source.view(table=True)
        place = view.place_of[view.rows["red0.mp4"].moment_set]
        part = slice(view.first[place], view.first[place + 1])
        assert view.starts[part].tolist() == [0.0, 50.0, 60.0]


def test_a_copy_is_made_of_what_is_left(made):
    store_row(made, [(50.0, 60.0), (20.0, 30.0)], moments=3)
    made.update()
    assert snapshot.read(made.index) is not None


def store_record(made, name, value):
    store = Store(made.index)
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    checksum = zlib.crc32(data, zlib.crc32(name.encode()))
    row = {"name": [name], "value": [data], "checksum": [checksum]}
    store._tables["meta"].add(pa.table(row, schema=meta_schema()))
    store.close()


MEASURED = {"mean": 0.0, "std": 1.0, "limit": 0.0, "count": 3}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("place", {"z\x1b[31m\n": 1}, r"place has the entry 'z\\x1b[31m\\n'"),
        ("place", {"videos": "a/" * 3000}, "videos is not a path"),
        ("place", {"videos": "a\0"}, "videos is not a path"),
        ("place", {"checkpoint": "\ud800"}, "checkpoint is not a path"),
        ("background", {"z\x1b": 1}, "background lacks mean"),
        ("background", MEASURED | {"z\x1b": 1}, r"background has the entry 'z\\x1b'"),
        ("background", MEASURED | {"mean": 1e308}, "background.mean is out of range"),
        ("background", MEASURED | {"std": -1.0}, "background.std is out of range"),
        ("background", MEASURED | {"count": 10**400}, "count is out of range"),
        ("background", b"[" * 100_000, "'background' is not JSON of an index"),
        ("background", b"1" * 5_000, "'background' is not JSON of an index"),
        ("background", b"\xff\xfe", "'background' is not JSON of an index"),
        ("\x1b", b" " * (1 << 20) + b"1", r"'\\x1b' is not JSON of an index"),
    ],
)
def test_a_record_that_is_not_its_own_is_one_printable_line(made, name, value, says):
    store_record(made, name, value)
    for attempt in (lambda: made.search("red"), made.update):
        with pytest.raises(UserError, match="records that are not its own") as caught:
            attempt()
        assert str(caught.value).isprintable()
        assert says.replace(r"\\", "\\") in str(caught.value)


@pytest.mark.parametrize("root", ["a" * 300, "/x\x1b[2J\nq"])
def test_a_folder_of_any_name_is_no_accident(made, root):
    store_record(made, "place", {"checkpoint": "\x1b[31mred", "videos": root})
    assert made.search("red")
    made.update()


def test_a_folder_with_codes_in_its_name_is_printed_without(made, tmp_path):
    other = tmp_path / "a\x1b[2J"
    other.mkdir()
    store_record(made, "place", {"checkpoint": "\x1b[31m", "videos": str(other)})
    with pytest.raises(UserError, match="is of the videos in") as caught:
        made.update()
    assert str(caught.value).isprintable()
    model = ColourModel()
    model.fingerprint = "another"
    with pytest.raises(UserError, match="made with another model") as caught:
        made.search("red", model)
    assert str(caught.value).isprintable()
