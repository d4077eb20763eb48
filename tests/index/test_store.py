"""The store: many writers, orphans, full disks, old formats."""

import os
import random
import resource
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from colour_model import ColourModel, write_colour

from data_pipelines.console.errors import UserError
from vop_jax.index import store as stores
from vop_jax.index import tables, upkeep
from vop_jax.index import update as updates
from vop_jax.index.location import place_of
from vop_jax.index.store import Store
from vop_jax.index.tables import MomentRow, VideoRow, new_id

ROOT = Path(__file__).parents[2]


def video(path, moments=1, **changes):
    name = new_id()
    row = VideoRow(new_id(), path, 1, 1, "c", name, moments, 8.0, 4, 4, "ok", "", "i")
    rows = [
        MomentRow(name, i, 8.0 * i, 8.0 * i + 8, np.ones(3, np.float16), b"x")
        for i in range(moments)
    ]
    return rows, [row._replace(**changes)]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "index")
    store.begin(3)
    yield store
    store.close()


def test_ids_grow_also_behind_those_of_a_faster_clock():
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    ahead = f"{int(ids[-1][:12], 16) + 3_600_000:012x}" + "f" * 12
    tables.after(ahead)
    assert new_id() > ahead
    tables._clock._last = 0
    assert tables.age_of(ids[0]) < 60


def test_the_newest_row_of_a_path_counts(folder, store):
    for moments in (1, 2):
        store.append(*video("a.mp4", moments))
    rows, refused = store.videos()
    assert [row.moments for row in rows] == [1, 2]
    assert refused == []
    odd = os.fsdecode(b"\xff.mp4")
    store.append(*video(odd, note=f"{odd} is odd"))
    assert store.videos()[0][-1].path == odd


def test_the_first_identity_counts_and_the_last_place(store):
    for fingerprint in ("a", "b"):
        store.record("identity", {"format": 2, "fingerprint": fingerprint})
        store.record("place", {"videos": fingerprint})
    assert store.records()["identity"]["fingerprint"] == "a"
    assert store.records()["place"] == {"videos": "b"}


def test_processes_that_begin_with_other_models_do_not_mix(folder, monkeypatch):
    """The second to begin finds that the first has."""
    real = Store.begin

    def late(self, size):
        real(self, size)
        monkeypatch.setattr(Store, "begin", real)
        folder.update(ColourModel("first"))

    monkeypatch.setattr(Store, "begin", late)
    with pytest.raises(UserError, match="was made with another model"):
        folder.update(ColourModel("second"))
    assert len(folder.found("red", model=ColourModel("first"))) == 9


def test_rows_of_another_model_do_not_count(folder):
    folder.update()
    store = Store(folder.index)
    store.append(*video("b.mp4", identity="another"))
    assert "b.mp4" not in folder.found()


def test_appends_of_many_threads_are_all_kept(store, tmp_path):
    errors = []

    def write(number):
        try:
            mine = Store(tmp_path / "index")
            for i in range(8):
                mine.append(*video(f"{number}/{i}.mp4"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    rows, _ = store.videos()
    assert sorted(row.path for row in rows) == sorted(
        f"{number}/{i}.mp4" for number in range(4) for i in range(8)
    )
    assert store.moments().count_rows() == 32


def test_a_lost_commit_is_tried_again_and_other_errors_are_not(store, monkeypatch):
    monkeypatch.setattr(stores.time, "sleep", lambda _: None)
    calls = []

    def conflicting():
        calls.append(1)
        if len(calls) < 4:
            raise RuntimeError("Retryable commit conflict for version 3")
        return "done"

    assert store._committed(conflicting) == "done"
    assert len(calls) == 4

    def broken():
        calls.append(1)
        raise RuntimeError("something\nelse")

    with pytest.raises(UserError, match=r"cannot be used \(something else\)"):
        store._committed(broken)
    assert len(calls) == 5


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device"), "the disk is full; what is done is k"),
        (RuntimeError("LanceError(IO): No space left on device (os error 28)"), "full"),
        (PermissionError(13, "Permission denied"), "permission denied"),
        (ValueError("x" * 9999), "if it is damaged, delete it and index again"),
    ],
)
def test_an_error_of_the_store_is_one_short_line(store, error, says):
    with pytest.raises(UserError, match=says) as caught, store.errors():
        raise error
    assert len(str(caught.value)) < 600


def test_a_panic_is_one_line_and_an_interrupt_is_none(store):
    class PanicException(BaseException):
        """As the store's library raises it."""

    with pytest.raises(UserError, match="cannot be used"), store.errors():
        raise PanicException("index out of bounds")
    with pytest.raises(KeyboardInterrupt), store.errors():
        raise KeyboardInterrupt


def test_moments_without_a_video_are_dropped_in_time(folder, monkeypatch):
    folder.update()
    store = Store(folder.index)
    rows, _ = video("never.mp4", 5)
    store.append(rows, [])
    (folder.videos / "red0.mp4").unlink()
    folder.update()
    # Another process may be about to store their video.
    assert store.moments().count_rows() == 14
    monkeypatch.setattr(upkeep, "GRACE", 1e-3)
    monkeypatch.setattr(upkeep, "age_of", lambda _: 1.0)
    assert folder.update().unchanged == 8
    assert store.moments().count_rows() == 8
    assert len(store.videos()[0]) == 8
    assert len(folder.found()) == 8


def test_moments_that_were_stored_twice_count_once(folder):
    folder.update()
    store = Store(folder.index)
    table = store.moments()
    table.add(store.scan(table, table.schema.names))
    with folder.open() as index:
        assert index.search(ColourModel(), ["red"]).moments == 9
        assert index._source.view().refused == []


def test_lost_moments_are_read_again(folder):
    folder.update()
    store = Store(folder.index)
    (row,) = [x for x in store.videos()[0] if x.path == "red0.mp4"]
    store.moments().delete(f"moment_set = '{row.moment_set}'")
    model = ColourModel()
    assert folder.update(model).indexed == 1
    assert model.read == ["red0.mp4"]


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4700k", "tmpfs", disk]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_is_one_line_and_keeps_what_is_done(
    folder, videos, small_disk, monkeypatch
):
    for i in range(60):
        write_colour(videos / f"new{i}.mp4", (4 * i, 90, 250 - 4 * i))
    monkeypatch.setattr(updates, "STORE_SECONDS", 0.0)
    monkeypatch.setattr(updates, "BATCH", 4)
    folder.index = small_disk / "index"
    with pytest.raises(UserError, match=r"the disk is full; what is done is kept$"):
        folder.update()
    found = folder.found()
    assert 0 < len(found) < 69
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    summary = folder.update()
    assert summary.unchanged >= len(found)
    assert len(folder.found()) == 69


def test_nothing_is_written_where_there_is_no_room(folder, store):
    """A file that is cut as it is written would be committed, and the table lost."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    version = store.version()
    for limit in (0, 1_000, 100_000, stores._ROOM):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        try:
            with pytest.raises(UserError, match=r"the disk is full; what is done is"):
                store.append(*video("a.mp4"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    assert store.version() == version
    assert store.videos() == ([], [])


def test_writers_wait_no_longer_than_they_must(store, monkeypatch):
    waits = []
    monkeypatch.setattr(stores.time, "sleep", waits.append)
    monkeypatch.setattr(stores.random, "uniform", lambda _, most: most)

    def never():
        raise RuntimeError("commit conflict")

    with pytest.raises(UserError):
        store._committed(never)
    assert len(waits) == stores._TRIES - 1
    assert max(waits) == 2.0
    assert random.uniform(0, 1) == 1


def test_records_that_are_not_its_own_are_one_line(folder):
    folder.update()
    shutil.rmtree(folder.index)
    store = Store(folder.index)
    store.begin(3)
    store.record("identity", {"format": 2, "odd": 1})
    with pytest.raises(UserError, match="holds records that are not its own"):
        folder.search("red")


def test_a_damaged_record_is_one_line(folder):
    folder.update()
    Store(folder.index)._tables["meta"].update(values={"checksum": 7})
    with pytest.raises(UserError, match="is damaged; delete it, index again"):
        folder.search("red")


def test_an_object_store_is_asked_for_its_versions_now_and_then(store, monkeypatch):
    store.append(*video("a.mp4"))
    monkeypatch.setattr(store, "place", "s3://bucket/index")
    before = store.version()
    Store(place_of(store._db.uri)).append(*video("b.mp4"))
    assert store.version() == before
    monkeypatch.setattr(stores, "_REMOTE_LOOK", 0.0)
    assert store.version() != before


def test_what_is_read_again_counts_though_its_clock_is_behind(folder, videos):
    folder.update()
    store = Store(folder.index)
    (row,) = [x for x in store.videos()[0] if x.path == "red0.mp4"]
    ahead = f"{int(new_id()[:12], 16) + 3_600_000:012x}" + "0" * 12
    store.append([], [row._replace(id=ahead)])
    os.utime(videos / "red0.mp4", ns=(5, 5))
    folder.update()
    model = ColourModel()
    assert folder.update(model).unchanged == 9
    assert model.read == []
    tables._clock._last = 0


def test_threads_search_while_an_update_stores(folder, videos):
    folder.update()
    errors, counts = [], set()
    with folder.open() as index:
        ended = threading.Event()

        def ask():
            try:
                while not ended.is_set():
                    found = index.search(ColourModel(), ["red"], top=100)
                    hits = found.answers[0].hits
                    counts.add(found.videos)
                    assert len(hits) + sum(len(x.copies) for x in hits) == found.videos
                    assert index.thumbnail(hits[0].moment)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for i in range(4):
            write_colour(videos / f"new{i}.mp4", (60 * i, 99, 10))
            folder.update()
        ended.set()
        for thread in threads:
            thread.join()
        assert index.search(ColourModel(), ["red"]).videos == 13
    assert errors == []
    assert len(counts) > 1


def test_an_index_that_cannot_be_tidied_is_complete(folder, monkeypatch, capsys):
    """As where several processes end at once, or the disk has room for no more."""

    def tidy(self, age):
        raise UserError("x cannot grow")

    monkeypatch.setattr(Store, "tidy", tidy)
    assert folder.update().indexed == 9
    assert (
        "x cannot grow; the index is complete but not tidied" in capsys.readouterr().err
    )
    assert len(folder.found()) == 9
    with folder.open() as index:
        assert index.background
