"""Damaged stores: never a false answer, and one line that says what is wrong."""

import random
import re
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
    """Of every query the hits as (similarity, videos), by times; what is left out."""
    with folder.open() as index:
        found = index.search(ColourModel(), QUERIES, top=100)
        hits = [
            {
                (x.video, x.start, x.end): (x.similarity, (x.video, *x.copies))
                for x in answer.hits
            }
            for answer in found.answers
        ]
        return hits, found.refused


def similarities(folder):
    """Of every query the similarity of each video, computed without a search."""
    with folder.open() as index:
        view = index._source.view()
        vectors, _ = view.take(view.first[:-1])
        found = ColourModel().encode_texts(QUERIES) @ vectors.T
        paths = [[row.path for row in rows] for rows in view.videos]
    return [
        {path: x for x, own in zip(row, paths, strict=True) for path in own}
        for row in found
    ]


# How often a file of each kind is damaged, by the end of its name: data files hold all
# that answers are made of, of the others only the newest are read.
KINDS = {".lance": 5, ".manifest": 3, ".bin": 2, ".txn": 1, ".json": 1}


def files_of(folder):
    """The files of the store by kind, in an order that random names do not change."""
    files = [x for x in folder.index.rglob("*") if x.is_file()]
    files.sort(key=lambda x: (x.parent, x.stat().st_mtime_ns, x.stat().st_size))
    found = {kind: [x for x in files if x.suffix == kind] for kind in KINDS}
    assert sum(map(len, found.values())) == len(files)
    assert found[".bin"] == [folder.index / "snapshot.bin"]
    return found


def damages(folder, rng):
    """Files of the store, each damaged in some way; undone afterwards."""
    files = files_of(folder)
    while True:
        (role,) = rng.choices(list(KINDS), list(KINDS.values()))
        file, at = rng.choice(files[role]), rng.random()
        kind = rng.choice(["flip", "flip", "flip", "zeros", "cut", "gone"])
        bit = 1 << rng.randrange(8)
        whole = file.read_bytes()
        data, place = bytearray(whole), int(at * len(whole))
        if kind == "flip" and data:
            data[place] ^= bit
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
    right, refused = answers(folder)
    assert not refused
    known = similarities(folder)
    rng = random.Random(seed)
    told = 0
    copy, aside = folder.index / "snapshot.bin", folder.index.with_name("aside")
    for _, what in zip(range(count), damages(folder, rng), strict=False):
        if rng.random() < 0.5 and copy.exists():
            copy.rename(aside)
        try:
            hits, refused = answers(folder)
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
        for found, wanted, true in zip(hits, right, known, strict=True):
            # Films that are nearly equal are one hit, as similar as the best of them.
            for similarity, videos in found.values():
                best = max(true[video] for video in videos)
                assert similarity == pytest.approx(best, abs=1e-6), what
            assert refused or set(found) == set(wanted), (what, found, wanted)
    return told


def test_a_damaged_store_gives_no_false_answer(folder, capfd):
    assert check_damaged(folder, 30, seed=2) > 4
    assert not re.search("panicked|WARN", capfd.readouterr().err)


@pytest.mark.slow
def test_two_hundred_damages_give_no_false_answer(folder, capfd):
    assert check_damaged(folder, 220, seed=1) > 20
    assert not re.search("panicked|WARN", capfd.readouterr().err)


def test_a_panic_of_the_library_is_one_line(folder, capfd):
    """An unknown type of a column, of which LanceDB's own code says that it panics."""
    folder.update()
    (folder.index / "snapshot.bin").unlink()
    manifests = list(folder.index.glob("videos.lance/_versions/*.manifest"))
    assert manifests
    for file in manifests:
        whole = file.read_bytes()
        assert b"string" in whole
        file.write_bytes(whole.replace(b"string", b"stsing"))
    capfd.readouterr()
    with pytest.raises(UserError, match=r"cannot be used .*panicked.* index again$"):
        folder.search("red")
    assert capfd.readouterr().err == ""


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
