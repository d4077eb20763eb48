"""Damaged stores: never a false answer, and one line that says what is wrong."""

import random
import shutil

import numpy as np
import pytest
from colour_model import ColourModel

from data_pipelines.console.errors import UserError
from vop_jax.index.store import Store
from vop_jax.index.tables import MomentRow, new_id
from vop_jax.index.view import read_view

QUERIES = ["red", "green", "blue"]


def answers(folder):
    """Video, times and similarity of every hit; what was left out."""
    with folder.open() as index:
        found = index.search(ColourModel(), QUERIES, top=100)
        hits = [
            {(x.video, x.start, x.end): x.similarity for x in answer.hits}
            for answer in found.answers
        ]
        named = {copy for a in found.answers for x in a.hits for copy in x.copies}
        return hits, named, found.refused


def damages(folder, rng):
    """Files of the store, each damaged in some way; undone afterwards."""
    files = sorted(x for x in folder.index.rglob("*") if x.is_file())
    assert folder.index / "snapshot.npz" in files
    while True:
        file = rng.choice(files)
        whole = file.read_bytes()
        kind = rng.choice(["flip", "flip", "flip", "zeros", "cut", "gone"])
        data = bytearray(whole)
        place = rng.randrange(max(1, len(data)))
        if kind == "flip" and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == "zeros":
            data[place : place + 64] = bytes(len(data[place : place + 64]))
        elif kind == "cut":
            del data[place:]
        if kind == "gone":
            file.unlink()
        else:
            file.write_bytes(data)
        yield f"{kind} of {file.relative_to(folder.index)} at {place}"
        file.write_bytes(whole)


def check_damaged(folder, count, seed):
    """Half of the damages are met by the tables, half by the copy beside them."""
    folder.update()
    # A second commit, so that an older version exists as well.
    (folder.videos / "red0.mp4").rename(folder.videos / "moved.mp4")
    folder.update()
    right, copies, refused = answers(folder)
    assert not refused
    rng = random.Random(seed)
    told = 0
    copy, aside = folder.index / "snapshot.npz", folder.index.with_name("aside")
    for _, what in zip(range(count), damages(folder, rng), strict=False):
        if rng.random() < 0.5:
            copy.rename(aside)
        try:
            hits, _, refused = answers(folder)
        except UserError as error:
            told += 1
            lines = str(error).splitlines()
            if len(lines) != 1:
                pytest.fail(f"{what}: {error}")
            continue
        finally:
            if aside.exists():
                aside.rename(copy)
        told += bool(refused)
        for found, wanted in zip(hits, right, strict=True):
            known = {x[0] for x in wanted} | copies
            assert all(key[0] in known for key in found), what
            for key, similarity in found.items():
                if key in wanted:
                    assert similarity == pytest.approx(wanted[key], abs=1e-6), what
            assert refused or set(found) == set(wanted), (what, found, wanted)
    return told


def test_a_damaged_store_gives_no_false_answer(folder):
    assert check_damaged(folder, 30, seed=0) > 0


@pytest.mark.slow
def test_two_hundred_damages_give_no_false_answer(folder):
    # Which bytes are hit depends on the store's names, which are random: about 30 of
    # these damages are noticed.
    assert check_damaged(folder, 220, seed=1) > 5


def vector(*values):
    return np.array(values, np.float16)


def replaced(folder, **columns):
    """Replaces columns of all moments without their checksums."""
    store = Store(folder.index)
    table = store.moments()
    table.update(values_sql=columns)
    store.close()


@pytest.mark.parametrize(
    "columns", [{"start": "start + 1"}, {"number": "number + 1"}, {"checksum": "7"}]
)
def test_a_moment_that_was_changed_is_refused_and_named(folder, columns):
    folder.update()
    replaced(folder, **columns)
    with folder.open() as index:
        with pytest.raises(UserError, match="that could be read; a/b/bl"):
            index.search(ColourModel(), ["red"])
        (first, *_) = index._source.view().refused
    assert first == "a/b/blue0.mp4: 1 of 1 moments are damaged or missing"
    # The next update reads what was lost again.
    assert folder.update().unchanged == 9
    shutil.rmtree(folder.index)
    assert folder.update().indexed == 9


def test_a_thumbnail_that_was_changed_is_not_shown(folder):
    folder.update()
    (hit, *_) = folder.search("red")
    with folder.open() as index:
        assert index.thumbnail(hit.moment).startswith(b"\xff\xd8")
        for name in ("", "x", "x.0", hit.moment + "9", hit.moment[:-1] + "-1"):
            assert index.thumbnail(name) is None
    store = Store(folder.index)
    store.moments().update(values_sql={"thumbnail_checksum": "7"})
    with folder.open() as index:
        assert index.thumbnail(hit.moment) is None
        assert index.search(ColourModel(), ["red"]).refused == []


def test_a_vector_that_is_not_finite_is_never_ranked(folder):
    folder.update()
    store = Store(folder.index)
    (rows, _) = store.videos()
    name = new_id()
    store.append(
        [MomentRow(name, 0, 0.0, 8.0, vector(np.inf, 0, 0), b"")],
        [rows[-1]._replace(id=new_id(), path="red0.mp4", moment_set=name, moments=1)],
    )
    with folder.open() as index:
        found = index.search(ColourModel(), ["red"], top=100)
    assert "red0.mp4" not in {hit.video for hit in found.answers[0].hits}
    assert found.refused == ["red0.mp4: 1 of 1 moments are damaged or missing"]


@pytest.mark.parametrize(
    "path",
    ["../out.mp4", "/etc/out.mp4", "a/../../out.mp4", "a//b.mp4", "a/.b.mp4", "passwd"],
)
def test_a_path_that_leaves_the_folder_is_refused(folder, path):
    (folder.videos.parent / "out.mp4").touch()
    (folder.videos / "passwd").touch()
    folder.update()
    store = Store(folder.index)
    (rows, _) = store.videos()
    store.append([], [rows[-1]._replace(id=new_id(), path=path)])
    with folder.open() as index:
        found = index.search(ColourModel(), ["red"], top=100)
        assert found.refused == [f"{path}: its path leaves the folder"]
        assert path not in {x.video for x in found.answers[0].hits}
        with pytest.raises(UserError, match="is not in"):
            index.file(path)


def test_a_link_that_leads_nowhere_is_no_file(folder, videos):
    folder.update()
    with folder.open() as index:
        assert index.file("red0.mp4") == videos / "red0.mp4"
        (videos / "red0.mp4").unlink()
        with pytest.raises(UserError, match=r"red0.mp4 is not in .* any more"):
            index.file("red0.mp4")
        (videos / "red0.mp4").mkdir()
        with pytest.raises(UserError, match="is not a regular file"):
            index.file("red0.mp4")


def test_a_file_that_was_not_read_as_a_video_is_not_shown(folder, videos, tmp_path):
    """A link with the name of a video may lead to any file of the machine."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (videos / "link.mp4").symlink_to(secret)
    (videos / "text.mp4").write_text("no video")
    folder.update()
    with folder.open() as index:
        for name in ("link.mp4", "text.mp4"):
            with pytest.raises(UserError, match=f"{name} could not be read as a video"):
                index.file(name)


def test_a_file_that_has_changed_is_not_shown(folder, videos, tmp_path):
    folder.update()
    red = videos / "red0.mp4"
    content, about = red.read_bytes(), red.stat()
    # The same video behind a link, and copied later, is what was indexed.
    kept = tmp_path / "kept.mp4"
    kept.write_bytes(content)
    red.unlink()
    red.symlink_to(kept)
    assert red.stat().st_mtime_ns != about.st_mtime_ns
    with folder.open() as index:
        assert index.file("red0.mp4") == red
        for other in (content + b"x", content[:-1] + b"\0", b"secret"):
            kept.write_bytes(other)
            with pytest.raises(UserError, match=r"red0.mp4 has changed .* index again"):
                index.file("red0.mp4")
        kept.write_bytes(content)
        assert index.file("red0.mp4") == red


def test_vectors_of_another_size_are_refused(folder):
    folder.update()
    store = Store(folder.index)
    with pytest.raises(UserError, match="its vectors have 3 numbers, not 4"):
        read_view(store, 4, "")
