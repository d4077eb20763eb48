"""Updates of an index: what is read again, what is kept, what is refused."""

import os
import shutil

import numpy as np
import pytest
from colour_model import ColourModel, write_colour

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.frames import STATUSES, VideoError
from data_pipelines.decoding.moments import Moment, VideoEnd
from data_pipelines.decoding.video_status import OF_THE_MOMENT
from vop_jax.index import listing as video_folder
from vop_jax.index import update as updates
from vop_jax.index.listing import list_videos
from vop_jax.index.video_index import VideoIndex


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(updates, "BATCH", 2)


@pytest.fixture
def stored_at_once(monkeypatch):
    monkeypatch.setattr(updates, "STORE_SECONDS", 0.0)


def counts(summary):
    return summary.indexed, summary.unchanged, summary.removed, len(summary.unreadable)


def test_only_what_changed_is_read_again(folder, videos):
    assert counts(folder.update()) == (9, 0, 0, 0)
    # Three shades of green are one hit and its copies.
    assert folder.found("green", top=1) == {f"a/green{i}.mp4" for i in range(3)}
    model = ColourModel()
    assert counts(folder.update(model)) == (0, 9, 0, 0)
    assert model.read == []
    (videos / "red0.mp4").unlink()
    write_colour(videos / "a/b/blue0.mp4", (221, 21, 20))
    write_colour(videos / "c/new.MP4", (221, 20, 21)).rename(videos / "c/new.MP4")
    # Of the same size, and written again.
    os.utime(videos / "red1.mp4", ns=(1, 1))
    assert counts(folder.update(model)) == (3, 6, 1, 0)
    assert sorted(model.read) == ["blue0.mp4", "new.MP4", "red1.mp4"]
    found = {"a/b/blue0.mp4", "c/new.MP4", "red1.mp4", "red2.mp4"}
    assert folder.found("red", top=1) == found
    assert len(folder.found()) == 9


def test_a_moved_file_keeps_its_moments(folder, videos):
    folder.update()
    before = folder.search("red", top=1)[0]
    (videos / "red0.mp4").rename(videos / "a/elsewhere.mp4")
    shutil.copy(videos / "red1.mp4", videos / "copy.mp4")
    model = ColourModel()
    summary = folder.update(model)
    assert (*counts(summary), summary.kept) == (0, 8, 0, 0, 2)
    assert model.read == []
    (after,) = [x for x in folder.search("red") if x.video == "a/elsewhere.mp4"]
    assert after.moment.split(".")[0] == before.moment.split(".")[0]
    assert "red0.mp4" not in folder.found()
    # A file of the same head and tail, and of another size or middle, is another.
    data = bytearray((videos / "red1.mp4").read_bytes())
    data[len(data) // 2] ^= 255
    (videos / "damaged.mp4").write_bytes(data)
    summary = folder.update(model)
    assert model.read == ["damaged.mp4"] or summary.unreadable
    assert summary.kept == 0


def test_copies_that_come_together_are_read_once(folder, videos):
    for name in ("x.mp4", "y.mp4"):
        shutil.copy(videos / "red0.mp4", videos / name)
    model = ColourModel()
    summary = folder.update(model)
    assert (summary.indexed, summary.kept) == (9, 2)
    assert len(model.read) == 9
    (hit,) = [x for x in folder.search("red") if "x.mp4" in (x.video, *x.copies)]
    assert {"red0.mp4", "x.mp4", "y.mp4"} <= {hit.video, *hit.copies}


def test_what_gives_no_frames_is_remembered(folder, videos):
    whole = (videos / "red0.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("no video")
    (videos / "README.txt").write_text("hello")
    (videos / "lost.mp4").symlink_to(videos / "nowhere.mp4")
    os.mkfifo(videos / "pipe.mp4")
    model = ColourModel()
    summary = folder.update(model)
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

    again = folder.update(Watched())
    # A link that leads nowhere may lead somewhere tomorrow.
    assert tried == ["lost.mp4"]
    assert (again.unchanged, again.unreadable) == (9, summary.unreadable)
    write_colour(videos / "text.mp4", (219, 19, 21))
    assert counts(folder.update(Watched())) == (1, 9, 0, 3)
    tried.clear()
    assert counts(folder.update(Watched(), retry=True)) == (0, 10, 0, 3)
    assert sorted(tried) == ["cut.mp4", "empty.mp4", "lost.mp4"]
    # What could be read once and cannot now is not found any more.
    (videos / "text.mp4").write_text("no video")
    folder.update()
    assert "text.mp4" not in folder.found()
    with folder.open() as index:
        assert index.counts() == (9, 9, 3)
        assert index.video("text.mp4").status == "unreadable"


class Partly(ColourModel):
    """Reads two of three moments of a file, and then no more."""

    status = "truncated"

    def read_moments(self, paths, seconds, ahead, cut):
        for place, path in enumerate(paths):
            frames = self.read_video(path)
            yield place, Moment(0.0, 8.0, frames)
            yield place, Moment(8.0, 16.0, frames)
            if path.name == "red0.mp4":
                yield place, VideoEnd(self.status, "cut", (), 16.0, 32, 32, 2)
            else:
                yield place, Moment(16.0, 24.0, frames)
                yield place, VideoEnd("", "", (), 24.0, 32, 32, 3)


def test_a_partly_readable_file_gives_what_can_be_read(folder):
    summary = folder.update(Partly())
    assert counts(summary) == (9, 0, 0, 0)
    assert [tuple(x) for x in summary.partly] == [("red0.mp4", "truncated", "cut")]
    assert summary.moments == 26
    (hit,) = [x for x in folder.search("red") if x.video == "red0.mp4"]
    assert (hit.start, hit.end, hit.duration) == (0.0, 16.0, 16.0)
    model = Partly()
    again = folder.update(model)
    assert (model.read, again.partly) == ([], summary.partly)
    # What took too long may take less next time; what it gave is kept until then.
    model.status = "timeout"
    assert folder.update(model, retry=True).partly[0].status == "timeout"
    assert "red0.mp4" in folder.found()
    model.read.clear()
    folder.update(model)
    assert model.read == ["red0.mp4"]


@pytest.mark.parametrize("kind", ["decoder", "embedding"])
def test_no_single_file_ends_a_run(folder, kind):
    class Odd(ColourModel):
        def read_video(self, path):
            if kind == "decoder" and path.name == "red1.mp4":
                raise VideoError("corrupt", "odd")
            return super().read_video(path)

        def encode_videos(self, frames):
            vectors = super().encode_videos(frames)
            if kind == "embedding":
                vectors[2] = np.nan
            return vectors

    summary = folder.update(Odd())
    assert counts(summary) == (8, 0, 0, 1)
    note = {"decoder": "odd", "embedding": "its embedding is not finite"}
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


def test_a_folder_that_cannot_be_read_keeps_its_videos(folder, videos, monkeypatch):
    folder.update()
    real = video_folder._entries

    def closed(place, seen):
        if place.name == "b":
            raise PermissionError(13, "Permission denied")
        return real(place, seen)

    monkeypatch.setattr(video_folder, "_entries", closed)
    (videos / "red0.mp4").unlink()
    summary = folder.update()
    assert counts(summary) == (0, 5, 1, 1)
    assert summary.unreadable[0] == ("a/b", "unreadable", "Permission denied")
    assert len(folder.found()) == 8


def test_a_failure_keeps_what_is_done(folder, videos, small_batches):
    first = ColourModel(fail_at=2)
    with pytest.raises(MemoryError):
        folder.update(first)
    assert first.batches == [2, 2]
    assert len(folder.found()) == 4
    second = ColourModel()
    assert counts(folder.update(second)) == (5, 4, 0, 0)
    assert len(second.read) == 5
    assert {x.name for x in videos.parent.iterdir()} == {"index", "videos"}


def test_a_share_that_goes_away_is_not_remembered_as_missing(
    folder, videos, small_batches, stored_at_once
):
    aside = videos.with_name("aside")

    class Share(ColourModel):
        def encode_videos(self, frames):
            if videos.exists():
                videos.rename(aside)
            return super().encode_videos(frames)

    with pytest.raises(UserError, match="vanished while it was indexed"):
        folder.update(Share())
    aside.rename(videos)
    summary = folder.update()
    assert summary.unchanged > 0
    assert summary.indexed + summary.unchanged == 9


@pytest.mark.parametrize("status", OF_THE_MOMENT)
def test_what_fails_for_the_moment_is_tried_again(folder, status):
    class Closed(ColourModel):
        def read_video(self, path):
            if path.name == "red0.mp4":
                raise VideoError(status, "not now")
            return super().read_video(path)

    assert counts(folder.update(Closed())) == (8, 0, 0, 1)
    assert counts(folder.update()) == (1, 8, 0, 0)


def test_a_file_that_goes_while_it_is_read_is_missing(folder, videos):
    folder.update()
    os.utime(videos / "red0.mp4", ns=(1, 1))

    class Late(ColourModel):
        def read_video(self, path):
            if path.name == "red0.mp4":
                path.unlink()
            return super().read_video(path)

    summary = folder.update(Late())
    assert [x[:2] for x in summary.unreadable] == [("red0.mp4", "missing")]
    assert "red0.mp4" not in folder.found()
    write_colour(videos / "red0.mp4", "red")
    assert counts(folder.update()) == (1, 8, 0, 0)


def test_another_model_is_refused(folder):
    folder.update()
    for other in (ColourModel("ff"), ColourModel(num_frames=3)):
        with pytest.raises(UserError, match=r"another model \(here, 2 frames\).*--reb"):
            folder.update(other)
        with pytest.raises(UserError, match="another model"):
            folder.search("red", other)
        assert other.read == []
    assert counts(folder.update(other, rebuild=True)) == (9, 0, 0, 0)
    assert len(folder.found("red", model=other)) == 9


def test_moments_of_another_length_are_refused(folder):
    folder.update(moment_seconds=4.0)
    with pytest.raises(UserError, match=r"moments of 4 seconds; pass --moment_sec"):
        folder.update(moment_seconds=8.0)
    assert counts(folder.update()) == (0, 9, 0, 0)
    folder.update(moment_seconds=8.0, rebuild=True)
    with folder.open() as index:
        assert index.meta.moment_seconds == 8.0


def test_another_folder_is_refused_and_a_moved_one_is_not(folder, videos, tmp_path):
    folder.update()
    other = write_colour(tmp_path / "other/x.mp4", "red").parent
    with pytest.raises(UserError, match=f"of the videos in {videos}; pass that"):
        folder.update(videos=other)
    model = ColourModel()
    moved = videos.rename(tmp_path / "moved")
    assert counts(folder.update(model, moved)) == (0, 9, 0, 0)
    assert model.read == []
    with folder.open() as index:
        assert index.root == moved
    again = moved.rename(tmp_path / "again")
    with folder.open(videos=again) as index:
        assert index.file("red0.mp4") == again / "red0.mp4"
        assert all(x.exists for x in index.search(model, ["red"]).answers[0].hits)
    assert not any(hit.exists for hit in folder.search("red"))
    assert counts(folder.update(videos=other, rebuild=True)) == (1, 0, 0, 0)


def test_a_folder_without_videos_is_refused(folder, videos, tmp_path):
    folder.update()
    empty = videos.parent / "empty"
    shutil.move(videos, videos.parent / "aside")
    empty.mkdir()
    (empty / "README.txt").touch()
    for options in ({}, {"rebuild": True}):
        with pytest.raises(UserError, match="empty holds no video"):
            folder.update(videos=empty, **options)
    with pytest.raises(UserError, match="videos is not a folder"):
        folder.update()
    assert len(folder.found()) == 9
    with (
        VideoIndex.create(empty / "new") as index,
        pytest.raises(UserError, match="holds no video"),
    ):
        index.update(ColourModel(), empty)
    assert {x.name for x in empty.iterdir()} == {"README.txt"}


def test_an_open_index_sees_what_another_process_adds(folder, videos):
    folder.update()
    with folder.open() as index:
        model = ColourModel()
        assert index.search(model, ["red"]).videos == 9
        view = index._source.view()
        index.search(model, ["red"])
        assert index._source.view() is view
        write_colour(videos / "new.mp4", (99, 99, 99))
        folder.update()
        assert index.search(model, ["red"]).videos == 10
        folder.update(ColourModel("ff"), rebuild=True)
        with pytest.raises(UserError, match="another model"):
            index.search(model, ["red"])


def test_an_index_that_is_filled_can_be_searched(folder, videos):
    folder.update()
    with VideoIndex.create(folder.index) as index:
        index.update(ColourModel(), videos)
        assert index.search(ColourModel(), ["red"]).videos == 9
        write_colour(videos / "new.mp4", (9, 99, 99))
        # Two at once add nothing twice.
        assert folder.update().indexed == 1
        assert index.update(ColourModel(), videos).indexed == 0
        assert index.search(ColourModel(), ["red"]).videos == 10


def test_an_index_without_a_readable_video_says_so(folder, videos):
    shutil.rmtree(videos)
    videos.mkdir()
    (videos / "x.mp4").touch()
    folder.update()
    with pytest.raises(UserError, match="holds no video that could be read"):
        folder.search("red")


def test_what_was_moved_is_not_counted_as_removed(folder, videos):
    folder.update()
    (videos / "red0.mp4").unlink()
    (videos / "red1.mp4").rename(videos / "moved.mp4")
    summary = folder.update()
    assert (summary.kept, summary.removed) == (1, 1)
    # A copy is not a move.
    shutil.copy(videos / "moved.mp4", videos / "copied.mp4")
    (videos / "red2.mp4").unlink()
    summary = folder.update()
    assert (summary.kept, summary.removed) == (1, 1)
