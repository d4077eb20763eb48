"""Indexes of windows and of shots: each continues with what it began with."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from colour_model import ColourModel
from written_films import write_shots

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.moments import decode_moments
from vop_jax.index.meta import Meta
from vop_jax.index.shards import Shard
from vop_jax.index.store import Store
from vop_jax.index.video_index import VideoIndex

ROOT = Path(__file__).parents[2]


class Cutting(ColourModel):
    """Reads moments as they are cut; and never where it must not."""

    def read_moments(self, paths, seconds, ahead, cut):
        for place, path in enumerate(paths):
            self.read.append(Path(path).name)
            answers = decode_moments(path, self.num_frames, seconds, 32, cut=cut)
            yield from ((place, answer) for answer in answers)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    # Nine seconds are one window of eight, and three shots.
    for i in range(4):
        write_shots(folder / f"{i}.mp4", [40 + i, 90 - i, 95], size=(32, 32 + 2 * i))
    return folder


def update(place, films, cut=None, model=None, **options):
    with VideoIndex.create(place, cut=cut) as index:
        return index.update(model or Cutting(), films, "here", **options)


def identity(place):
    store = Store(place)
    with contextlib.closing(store):
        return store.records()["identity"]


def test_an_index_continues_with_what_it_began_with(films, tmp_path):
    place = tmp_path / "index"
    assert update(place, films, "shots").moments == 12
    assert identity(place)["cut"] == "shots"
    model = Cutting()
    with pytest.raises(UserError, match=r"is cut into shots; pass --cut=shots, or ind"):
        update(place, films, "windows", model)
    assert model.read == []
    for cut in (None, "shots"):
        (films / "0.mp4").touch()
        summary = update(place, films, cut, model)
        assert (summary.indexed, summary.moments, summary.unchanged) == (1, 3, 3)
    with VideoIndex.open(place) as index:
        view = index._source.view()
        assert {1.6, 1.64, 1.68, 1.72} <= {*view.starts}
        assert index.counts()[:2] == (4, 12)
    assert update(place, films, "windows", model, rebuild=True).moments == 4
    with pytest.raises(UserError, match="is cut into windows; pass --cut=windows"):
        update(place, films, "shots")


def test_an_index_of_before_the_choice_is_of_windows(films, tmp_path):
    """Its records do not name a cut, and its rows are of an identity without one."""
    place = tmp_path / "index"
    assert update(place, films).moments == 4
    assert "cut" not in identity(place)
    made = identity(place)
    assert Meta.of({"identity": made}).cut == "windows"
    assert (
        Meta.of({"identity": made}).digest
        != Meta.of({"identity": made | {"cut": "shots"}}).digest
    )
    assert update(place, films, "windows").unchanged == 4


def test_another_way_is_refused_before_anything_is_made(films, tmp_path):
    with pytest.raises(UserError, match="--cut is scenes; pass one of windows, shots"):
        update(tmp_path / "index", films, "scenes")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_nothing_is_made_and_nothing_changed(films, tmp_path):
    place = tmp_path / "index"
    update(place, films, "shots")
    before = sorted(x.name for x in place.rglob("*"))
    for output, flags in ((place, []), (tmp_path / "new", ["--cut=shots"])):
        done = run(output, films, *flags, missing="scenedetect")
        assert done.returncode == 2
        assert done.stderr.startswith("error: --cut=shots needs PySceneDetect (")
        advice = "run pip install 'scenedetect-headless>=0.7.2,<0.8'\n"
        assert done.stderr.endswith(f"; {advice}")
        assert done.stderr.count("\n") == 1
    assert sorted(x.name for x in place.rglob("*")) == before
    assert not (tmp_path / "new").exists()


def run(output, films, *flags, missing=""):
    """The command, perhaps as where a package is not installed."""
    code = f"""
import sys
if {missing!r}:
    sys.modules[{missing!r}] = None
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_cuts import Cutting
from vop_jax import search
search.load_model = lambda path, **_: Cutting()
search.main()
"""
    flags = [f"--videos={films}", f"--output={output}", "--checkpoint=x", *flags]
    return subprocess.run(
        [sys.executable, "-c", code, "index", *flags],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'helpers'}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_who_begins_first_says_how_it_is_cut(films, tmp_path):
    """Four writers at once, of which one asks for something else."""
    place = tmp_path / "index"
    whole = tmp_path / "whole"
    update(whole, films, "shots")
    with VideoIndex.create(place, cut="windows") as late:
        for number in (1, 2, 3):
            update(place, films, "shots", shard=Shard(number, 4))
        with pytest.raises(UserError, match="is cut into shots"):
            late.update(Cutting(), films, "here", shard=Shard(4, 4))
    update(place, films, "shots", shard=Shard(4, 4))
    vectors = []
    for path in (place, whole):
        store = Store(path)
        with contextlib.closing(store):
            found = store.scan(store.moments(), ["start", "end", "vector"]).to_pylist()
        vectors.append(sorted((x["start"], x["end"], *x["vector"]) for x in found))
    np.testing.assert_array_equal(*vectors)


def test_a_film_without_a_shot_to_read_is_listed(films, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    content = (films / "0.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(content[: len(content) // 2])
    (videos / "good.mp4").write_bytes(content)
    summary = update(tmp_path / "index", videos, "shots")
    assert summary.moments >= 3
    assert [x.path for x in (*summary.partly, *summary.unreadable)] == ["cut.mp4"]
