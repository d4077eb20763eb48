"""The copy of an index that a query reads: when it is used, and when it is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from colour_model import ColourModel

from vop_jax.index import snapshot, upkeep, view
from vop_jax.index.store import Store
from vop_jax.index.tables import new_id

ROOT = Path(__file__).parents[2]
QUERY = """
import sys
from colour_model import ColourModel
from vop_jax.index.video_index import VideoIndex
with VideoIndex.open(sys.argv[1]) as index:
    print(index.search(ColourModel(), ["red"]).videos, index.counts().videos)
    print("lancedb" in sys.modules, "pyarrow" in sys.modules)
    index.thumbnail("x.0")
    print("lancedb" in sys.modules)
"""


def test_a_query_imports_no_lancedb(folder):
    folder.update()
    done = subprocess.run(
        [sys.executable, "-c", QUERY, folder.index],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'helpers'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["9", "9", "False", "False", "True"]


def test_a_copy_that_is_behind_is_not_used(folder):
    """An update that is killed at its end stores videos and writes no copy."""
    folder.update()
    assert snapshot.read(folder.index) is not None
    store = Store(folder.index)
    (row,) = [x for x in store.videos()[0] if x.path == "red0.mp4"]
    store.append([], [row._replace(id=new_id(), path="again.mp4")])
    assert snapshot.read(folder.index) is None
    assert "again.mp4" in folder.found()


def test_a_copy_is_of_the_version_before_it_was_read(folder, monkeypatch):
    """What another process stores meanwhile makes it stale at once."""
    folder.update()
    real = snapshot.write

    def late(place, *given):
        store = Store(place)
        (row,) = [x for x in store.videos()[0] if x.path == "red0.mp4"]
        store.append([], [row._replace(id=new_id(), path="other.mp4")])
        real(place, *given)

    monkeypatch.setattr(snapshot, "write", late)
    (folder.videos / "red1.mp4").rename(folder.videos / "moved.mp4")
    folder.update()
    assert "other.mp4" in folder.found()


def test_what_is_stored_while_an_update_ends_is_not_missed(folder, monkeypatch):
    """The index is read once, before its own last record."""
    folder.update()
    store = Store(folder.index)
    (row,) = [x for x in store.videos()[0] if x.path == "red0.mp4"]
    real, read = upkeep.measure, []

    def meanwhile(*given):
        store.append([], [row._replace(id=new_id(), path="other.mp4")])
        return real(*given)

    monkeypatch.setattr(upkeep, "measure", meanwhile)
    monkeypatch.setattr(
        upkeep, "read_view", lambda *given: read.append(1) or view.read_view(*given)
    )
    (folder.videos / "red1.mp4").rename(folder.videos / "moved.mp4")
    folder.update()
    assert read == [1]
    assert snapshot.read(folder.index) is None
    assert "other.mp4" in folder.found()
    monkeypatch.undo()
    folder.update()
    assert snapshot.read(folder.index) is not None


@pytest.mark.parametrize("kind", ["cut", "flipped", "text", "gone", "folder"])
def test_a_damaged_copy_is_not_used(folder, kind):
    folder.update()
    right = folder.search("red")
    path = folder.index / "snapshot.bin"
    data = bytearray(path.read_bytes())
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif kind == "text":
        path.write_text("no archive")
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
    assert snapshot.read(folder.index) is None
    assert folder.search("red") == right
    # A reader writes it anew, where one was and can be.
    renewed = kind in ("cut", "flipped", "text")
    assert (snapshot.read(folder.index) is not None) == renewed


def test_an_index_that_stays_on_disk_has_no_copy(folder, monkeypatch):
    folder.update()
    source = folder.index / "snapshot.bin"
    assert source.exists()
    with folder.open() as index:
        held = index._source.view()
    snapshot.write(folder.index, "x", {}, view.dataclasses.replace(held, vectors=None))
    assert not source.exists()
    assert snapshot.stamp("s3://bucket/index") == ""
    assert snapshot.read("s3://bucket/index") is None


def test_the_copy_and_the_tables_answer_alike(folder):
    (folder.videos / "empty.mp4").touch()
    folder.update()
    copied = folder.search("green")
    with folder.open() as index:
        counts, rows = index.counts(), index._source.view().rows
    (folder.index / "snapshot.bin").unlink()
    assert folder.search("green") == copied
    with folder.open() as index:
        assert index.counts() == counts == (9, 9, 1)
        assert index._source.view().rows == rows
        assert index.background is not None
        assert index.search(ColourModel(), ["red"]).moments == 9
