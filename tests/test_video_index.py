"""The index: what is read again, what is kept, what is refused."""

import contextlib
import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from colour_model import COLOURS, ColourModel, write_colour

from data_pipelines.errors import UserError
from data_pipelines.frames import STATUSES, VideoError
from vop_jax import index_file, video_folder, video_index
from vop_jax.index_file import OK, Row, create_index
from vop_jax.video_folder import File, list_videos
from vop_jax.video_index import VideoIndex

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Nine videos, some of them in folders."""
    folder = tmp_path_factory.mktemp("rendered")
    for i in range(3):
        for colour, place in zip(COLOURS, ("", "a/", "a/b/"), strict=True):
            write_colour(folder / f"{place}{colour}{i}.mp4", colour)
    return folder


@pytest.fixture
def videos(rendered, tmp_path):
    return Path(shutil.copytree(rendered, tmp_path / "videos"))


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(video_index, "BATCH", 2)


def update(videos, model=None, output=None, **options):
    with VideoIndex.create(output or videos.parent / "index") as index:
        return index.update(model or ColourModel(), videos, "here", **options)


def search(videos, text, top=10, model=None):
    with VideoIndex.open(videos.parent / "index") as index:
        return index.search(model or ColourModel(), [text], top).hits[0]


def counts(summary):
    return summary.indexed, summary.unchanged, summary.removed, len(summary.unreadable)


def test_only_what_changed_is_read_again(videos):
    assert counts(update(videos)) == (9, 0, 0, 0)
    assert {hit.path for hit in search(videos, "green", 3)} == {
        f"a/green{i}.mp4" for i in range(3)
    }
    model = ColourModel()
    assert counts(update(videos, model)) == (0, 9, 0, 0)
    assert model.read == []
    (videos / "red0.mp4").unlink()
    write_colour(videos / "a/b/blue0.mp4", "red")
    write_colour(videos / "c/new.MP4", "red").rename(videos / "c/new.MP4")
    # Of the same size, and written again.
    os.utime(videos / "red1.mp4", ns=(1, 1))
    assert counts(update(videos, model)) == (3, 6, 1, 0)
    assert sorted(model.read) == ["blue0.mp4", "new.MP4", "red1.mp4"]
    found = [hit.path for hit in search(videos, "red", 4)]
    assert found == ["a/b/blue0.mp4", "c/new.MP4", "red1.mp4", "red2.mp4"]
    assert len(search(videos, "red", 100)) == 9


def test_what_gives_no_frames_is_remembered(videos):
    whole = (videos / "red0.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("no video")
    (videos / "README.txt").write_text("hello")
    (videos / "lost.mp4").symlink_to(videos / "nowhere.mp4")
    os.mkfifo(videos / "pipe.mp4")
    model = ColourModel()
    summary = update(videos, model)
    assert counts(summary) == (9, 0, 0, 4)
    statuses = {x.path: x.status for x in summary.unreadable}
    # What half a file is taken for depends on where it was cut.
    assert statuses.pop("cut.mp4") in STATUSES
    assert statuses == {
        "empty.mp4": "unreadable",
        "lost.mp4": "missing",
        "text.mp4": "unreadable",
    }
    assert summary.not_video == ["README.txt", "pipe.mp4"]
    assert all(x.note for x in summary.unreadable)

    tried = []

    class Watched(ColourModel):
        def read_video(self, path):
            tried.append(path.name)
            return super().read_video(path)

    again = update(videos, Watched())
    # A link that leads nowhere may lead somewhere tomorrow.
    assert tried == ["lost.mp4"]
    assert (again.unchanged, again.unreadable) == (9, summary.unreadable)
    write_colour(videos / "text.mp4", "red")
    assert counts(update(videos, Watched())) == (1, 9, 0, 3)
    tried.clear()
    assert counts(update(videos, Watched(), retry=True)) == (0, 10, 0, 3)
    assert sorted(tried) == ["cut.mp4", "empty.mp4", "lost.mp4"]
    # What could be read once and cannot now is not found any more.
    (videos / "text.mp4").write_text("no video")
    update(videos)
    assert "text.mp4" not in {hit.path for hit in search(videos, "red", 100)}


@pytest.mark.parametrize("kind", ["decoder", "embedding"])
def test_no_single_file_ends_a_run(videos, kind):
    class Odd(ColourModel):
        def read_video(self, path):
            if kind == "decoder" and path.name == "red1.mp4":
                raise ValueError("odd")
            return super().read_video(path)

        def encode_videos(self, frames):
            vectors = super().encode_videos(frames)
            if kind == "embedding":
                vectors[2] = np.nan
            return vectors

    summary = update(videos, Odd())
    assert counts(summary) == (8, 0, 0, 1)
    note = {"decoder": "ValueError: odd", "embedding": "its embedding is not finite"}
    assert summary.unreadable[0].note == note[kind]


def test_links_are_followed_once_and_hidden_files_left_out(videos, tmp_path):
    (videos / "a/b/loop").symlink_to(videos)
    (videos / "a/itself").symlink_to("itself")
    # Before and behind the folder they lead to, whose own name is the one to go by.
    for name in ("Link", "zlink"):
        (videos / name).symlink_to(videos / "a/b")
    write_colour(tmp_path / "elsewhere/x.mp4", "red")
    (videos / "linked").symlink_to(tmp_path / "elsewhere")
    write_colour(videos / ".hidden/y.mp4", "red")
    write_colour(videos / "a/.z.mp4", "red")
    listing = list_videos(videos)
    paths = [file.path for file in listing.videos]
    assert paths == sorted(paths)
    assert set(paths) == {
        *(f"red{i}.mp4" for i in range(3)),
        *(f"a/green{i}.mp4" for i in range(3)),
        *(f"a/b/blue{i}.mp4" for i in range(3)),
        "linked/x.mp4",
    }
    assert listing.others == ["a/itself"]


def test_a_folder_that_cannot_be_read_keeps_its_videos(videos, monkeypatch):
    update(videos)
    real = video_folder._entries

    def closed(folder, seen):
        if folder.name == "b":
            raise PermissionError(13, "Permission denied")
        return real(folder, seen)

    monkeypatch.setattr(video_folder, "_entries", closed)
    (videos / "red0.mp4").unlink()
    summary = update(videos)
    assert counts(summary) == (0, 5, 1, 1)
    assert summary.unreadable[0] == ("a/b", "unreadable", "Permission denied")
    assert len(search(videos, "blue", 100)) == 8


def test_a_failure_keeps_what_is_done(videos, small_batches):
    first = ColourModel(fail_at=2)
    with pytest.raises(MemoryError):
        update(videos, first)
    assert first.batches == [2, 2]
    assert len(search(videos, "red", 100)) == 4
    second = ColourModel()
    assert counts(update(videos, second)) == (5, 4, 0, 0)
    assert len(second.read) == 5
    # All of it is one file.
    assert {x.name for x in videos.parent.iterdir()} == {"index", "videos"}


RUN = """
import sys
from colour_model import ColourModel
from vop_jax import search, video_index
video_index.BATCH = 2
search.load_model = lambda path: ColourModel(pause=50)
search.main()
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_keeps_what_is_done(videos, kind):
    output = videos.parent / "index"
    flags = [f"--videos={videos}", f"--output={output}", "--checkpoint=x"]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "index", *flags],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not output.exists() or not _stored(output):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    out, err = _signalled(process, kind)
    if kind == signal.SIGINT:
        assert process.returncode == 130, err
        assert err.splitlines()[-1] == "interrupted; what is done is kept"
        assert "Traceback" not in out + err
    done = _stored(output)
    assert 0 < len(done) < 9
    model = ColourModel()
    assert counts(update(videos, model)) == (9 - len(done), len(done), 0, 0)
    assert not set(model.read) & {Path(x).name for x in done}
    assert {x.name for x in videos.parent.iterdir()} == {"index", "videos"}


def _signalled(process, kind):
    """What a process says that is sent a signal, as often as it takes.

    Python drops an interrupt that meets the collection of an object; one asks again.
    """
    try:
        for _ in range(6):
            process.send_signal(kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.communicate(timeout=10)
        raise AssertionError("the process does not end")
    finally:
        process.kill()


def _stored(output):
    try:
        with VideoIndex.open(output) as index:
            return index._file.embeddings()[0]
    except UserError:
        return []


def test_a_share_that_goes_away_is_not_remembered_as_missing(videos, small_batches):
    aside = videos.with_name("aside")

    class Share(ColourModel):
        def encode_videos(self, frames):
            if videos.exists():
                videos.rename(aside)
            return super().encode_videos(frames)

    with pytest.raises(UserError, match="vanished while it was indexed"):
        update(videos, Share())
    aside.rename(videos)
    summary = update(videos)
    assert summary.unchanged > 0
    assert summary.indexed + summary.unchanged == 9


def test_a_file_that_goes_while_it_is_read_is_missing(videos):
    update(videos)
    os.utime(videos / "red0.mp4", ns=(1, 1))

    class Late(ColourModel):
        def read_video(self, path):
            if path.name == "red0.mp4":
                path.unlink()
                raise VideoError("unreadable", "no such file")
            return super().read_video(path)

    summary = update(videos, Late())
    assert summary.unreadable == [("red0.mp4", "missing", "no such file")]
    assert "red0.mp4" not in {hit.path for hit in search(videos, "red", 100)}
    write_colour(videos / "red0.mp4", "red")
    assert counts(update(videos)) == (1, 8, 0, 0)


def test_another_model_is_refused(videos):
    update(videos)
    for other in (ColourModel("ff"), ColourModel(num_frames=3)):
        with pytest.raises(UserError, match=r"another model \(here, 2 frames\).*--reb"):
            update(videos, other)
        with pytest.raises(UserError, match="another model"):
            search(videos, "red", model=other)
        assert other.read == []
    assert counts(update(videos, other, rebuild=True)) == (9, 0, 0, 0)
    assert len(search(videos, "red", model=other)) == 9


def test_another_folder_is_refused_and_a_moved_one_is_not(videos, tmp_path):
    update(videos)
    other = write_colour(tmp_path / "other/x.mp4", "red").parent
    with pytest.raises(UserError, match=f"of the videos in {videos}; give that"):
        update(other)
    model = ColourModel()
    moved = videos.rename(tmp_path / "moved")
    assert counts(update(moved, model)) == (0, 9, 0, 0)
    assert model.read == []
    with VideoIndex.open(tmp_path / "index") as index:
        assert index.videos == moved
    assert counts(update(other, rebuild=True)) == (1, 0, 0, 0)


def test_a_folder_without_videos_is_refused(videos):
    update(videos)
    empty = videos.parent / "empty"
    shutil.move(videos, videos.parent / "aside")
    empty.mkdir()
    (empty / "README.txt").touch()
    for kwargs in ({}, {"rebuild": True}):
        with pytest.raises(UserError, match="empty holds no video"):
            update(empty, **kwargs)
    with pytest.raises(UserError, match="videos is no folder"):
        update(videos)
    assert len(search(videos, "red")) == 9
    with pytest.raises(UserError, match="holds no video"):
        update(empty, output=empty / "new")
    assert {x.name for x in empty.iterdir()} == {"README.txt"}


def test_two_at_once_are_refused_and_a_search_is_not(videos):
    update(videos)
    with VideoIndex.create(videos.parent / "index") as index:
        with pytest.raises(UserError, match="is being filled by another process"):
            update(videos)
        assert len(search(videos, "red")) == 9
        # And a refused one leaves the lock to whoever holds it.
        with pytest.raises(UserError, match="is being filled"):
            update(videos)
        index.update(ColourModel(), videos)
        # What it has stored itself, it finds.
        assert index.search(ColourModel(), ["red"]).videos == 9
        write_colour(videos / "new.mp4", "red")
        index.update(ColourModel(), videos)
        assert index.search(ColourModel(), ["red"]).videos == 10


def test_a_lock_that_was_just_removed_is_taken_anew(tmp_path, monkeypatch):
    real, calls = fcntl.flock, []

    def late(descriptor, operation):
        if not calls:
            (tmp_path / ".index.lock").unlink()
        calls.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with VideoIndex.create(tmp_path / "index"):
        with (
            pytest.raises(UserError, match="is being filled"),
            VideoIndex.create(tmp_path / "index"),
        ):
            pass
        assert len(calls) == 3


def test_a_locked_file_is_said_to_be(videos, monkeypatch):
    update(videos)
    monkeypatch.setattr(index_file, "_WAIT", 0.05)
    other = sqlite3.connect(videos.parent / "index", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(UserError, match="is in use by another process"):
            search(videos, "red")
        other.execute("ROLLBACK")
        with VideoIndex.create(videos.parent / "index") as index:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(UserError, match="is in use by another process"):
                index.update(ColourModel(), videos)
    finally:
        other.close()


def test_an_empty_file_can_be_filled_and_not_searched(videos):
    (videos.parent / "index").touch()
    with pytest.raises(UserError, match="is no index of videos"):
        search(videos, "red")
    assert update(videos).indexed == 9


@pytest.mark.parametrize("kind", ["text", "database", "newer", "damaged", "folder"])
def test_other_files_are_refused(videos, tmp_path, kind):
    output = tmp_path / "index"
    says = "is no index of videos"
    if kind == "text":
        output.write_text("no index\n" * 100)
    elif kind == "folder":
        output.mkdir()
        says = "is no file"
    elif kind == "database":
        with sqlite3.connect(output) as other:
            other.execute("CREATE TABLE meta (name, value)")
        other.close()
    else:
        update(videos)
        with sqlite3.connect(output) as other:
            if kind == "newer":
                other.execute("UPDATE meta SET value = '2' WHERE name = 'format'")
                says = "has format 2 of a newer vop_jax"
            else:
                other.execute("UPDATE files SET embedding = x'00' WHERE size > 0")
                says = "is damaged"
        other.close()
    content = output.read_bytes() if output.is_file() else None
    if kind != "damaged":
        with pytest.raises(UserError, match=says):
            update(videos, rebuild=True)
    if kind != "folder":
        with pytest.raises(UserError, match=says):
            search(videos, "red")
        assert output.read_bytes() == content


class Table:
    """Embeds texts as rows of a table."""

    fingerprint, num_frames = "t", 1

    def __init__(self, rows):
        self.rows = rows

    def encode_texts(self, texts):
        return self.rows[: len(texts)]


def test_the_ranking_is_that_of_a_plain_sort(tmp_path):
    rng = np.random.default_rng(0)
    # Not normalised: the length of a video's embedding counts.
    table = rng.normal(size=(500, 16)).astype(np.float32)
    queries = rng.normal(size=(7, 16)).astype(np.float32)
    names = [f"v{i:03}.mp4" for i in range(len(table))]
    meta = {"fingerprint": "t", "num_frames": "1", "embedding_size": "16"}
    with create_index(tmp_path / "index") as file:
        file.write_meta(meta | {"checkpoint": "", "videos": "/v"}, empty=True)
        stored = [
            Row(File(name, 1, 1), OK, "", vector)
            for name, vector in zip(names, table, strict=True)
        ]
        file.store(stored, removed=[])
    with VideoIndex.open(tmp_path / "index") as index:
        found = index.search(Table(queries), ["x"] * 7, top=50)
    similarity = queries @ table.T
    for row, hits in zip(similarity, found.hits, strict=True):
        best = np.argsort(-row, kind="stable")[:50]
        assert [hit.path for hit in hits] == [names[i] for i in best]
        assert [hit.rank for hit in hits] == list(range(1, 51))
        np.testing.assert_allclose(
            [hit.similarity for hit in hits], row[best], rtol=1e-5, atol=1e-6
        )
    assert found.videos == 500
    assert set(found.seconds) == {"read", "embed", "search"}


def test_copies_are_ordered_by_name(videos):
    for name in ("z", "m", "b"):
        shutil.copy(videos / "red0.mp4", videos / f"{name}.mp4")
    update(videos)
    found = [hit.path for hit in search(videos, "red", 6)]
    assert found == sorted(found)


def test_an_open_index_sees_what_another_process_adds(videos):
    update(videos)
    with VideoIndex.open(videos.parent / "index") as index:
        model = ColourModel()
        assert index.search(model, ["red"]).videos == 9
        read = index._read
        index.search(model, ["red"])
        assert index._read is read
        write_colour(videos / "new.mp4", "red")
        update(videos)
        assert index.search(model, ["red"]).videos == 10
        update(videos, ColourModel("ff"), rebuild=True)
        with pytest.raises(UserError, match="another model"):
            index.search(model, ["red"])


@pytest.mark.parametrize(
    ("texts", "top", "says"),
    [(["red", "  "], 10, "a query is empty"), (["red"], 0, "--top is 0")],
)
def test_queries_that_cannot_be_answered(videos, texts, top, says):
    update(videos)
    with (
        VideoIndex.open(videos.parent / "index") as index,
        pytest.raises(UserError, match=says),
    ):
        index.search(ColourModel(), texts, top)


def test_an_index_without_a_readable_video_says_so(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "x.mp4").touch()
    update(videos)
    with pytest.raises(UserError, match="holds no video that could be read"):
        search(videos, "red")
