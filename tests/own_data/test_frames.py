"""The frames of an output: those of its films, and of nobody else's."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from films import film
from PIL import Image
from preparations import InProcess

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.resizing import CLIP_RESIZING
from data_pipelines.decoding.video_files import VideoFiles
from data_pipelines.feeding.split import load_split
from data_pipelines.preparing import prepare as preparing
from data_pipelines.preparing.provenance import read_provenance
from vop_jax.own_data import frames as module
from vop_jax.own_data.frames import Frames, prepare_frames
from vop_jax.own_data.known import changes, looked_at, read_known
from vop_jax.own_data.pairs import Pairs

NAMES = [f"{i}.mp4" for i in range(3)]
SPLITS = dict(zip(NAMES, ("train", "validation", "test"), strict=True))


class Output:
    """A folder of three files, and an output for them."""

    def __init__(self, folder):
        self.films, self.output = folder / "films", folder / "run"
        self.films.mkdir()
        self.captions = {name: [f"said of {name}"] for name in NAMES}
        for name in NAMES:
            self.replace(name, name)

    def replace(self, name, content):
        (self.films / name).write_bytes(content.encode() * 9)

    def pairs(self):
        rows = {name: [i] for i, name in enumerate(NAMES, 2)}
        return Pairs(self.captions, rows, SPLITS)

    def look(self):
        files = VideoFiles(self.films)
        return files, looked_at(self.pairs(), files, InProcess())

    def prepare(self, data=None, *, begun=False):
        """As the command does, which looks at the films first."""
        frames = Frames(str(data or self.output / "data"), 2, 16, CLIP_RESIZING)
        files, known = self.look()
        prepare_frames(self.output, frames, files, self.pairs(), known, begun=begun)
        return Path(frames.path)

    def contents(self):
        return {x: x.read_bytes() for x in self.output.rglob("*") if x.is_file()}


@pytest.fixture
def own(tmp_path):
    return Output(tmp_path)


@pytest.fixture
def made(monkeypatch):
    """Stands for the decoding; lists what the shards were made of."""
    found = []

    def prepare(dataset, output, *, videos, annotations, films, **options):
        sizes = [options[x] for x in ("num_frames", "image_size", "resizing")]
        path = Path(preparing.prepared_path(dataset, output, *sizes))
        if path.is_dir():
            return path
        digest = hashlib.sha256(annotations.read_bytes()).hexdigest()
        provenance = {"annotations": {annotations.name: digest}, "films": films}
        path.mkdir(parents=True)
        (path / "provenance.json").write_text(json.dumps(provenance))
        found.append({x.name: x.read_bytes() for x in videos.iterdir()})
        (path / "of").write_text(str(found[-1]))
        return path

    monkeypatch.setattr(module, "prepare", prepare)
    monkeypatch.setattr(module, "report_lines", lambda _: [])
    return found


@pytest.mark.parametrize("caption", ["two\r\nlines", "two\nlines"])
def test_the_same_captions_keep_their_frames(own, made, caption):
    """Also those with the line ends of Windows, which reading as text would change."""
    own.captions["0.mp4"] = [caption]
    own.prepare()
    own.prepare()
    assert len(made) == 1
    own.captions["0.mp4"] = ["another"]
    own.prepare()
    assert len(made) == 2


def test_frames_of_a_film_that_was_replaced_are_decoded_again(own, made):
    own.prepare()
    own.replace("1.mp4", "anew.")
    path = own.prepare()
    assert (path / "of").read_text() == str(made[1])
    assert made[1]["1.mp4"] == b"anew." * 9
    known = read_known(own.output / "own_data.json")
    assert known is not None
    assert changes(known, own.pairs(), VideoFiles(own.films)) == ""
    # The first film is back: those frames are not of it any more.
    own.replace("1.mp4", "1.mp4")
    own.prepare()
    assert made[2] == made[0]


@pytest.mark.parametrize("when", ["dropped", "written"])
def test_an_interruption_leaves_no_frames_of_other_films(own, made, when, monkeypatch):
    path = own.prepare()
    own.replace("1.mp4", "anew.")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        name = {"dropped": "write_atomically", "written": "prepare"}[when]
        patch.setattr(module, name, stop)
        with pytest.raises(KeyboardInterrupt):
            own.prepare()
    # What is recorded of the films is never newer than the frames.
    assert not path.exists()
    own.prepare()
    assert made[-1]["1.mp4"] == b"anew." * 9


def test_a_film_that_changes_while_it_is_decoded_is_refused(own, made, monkeypatch):
    prepare = module.prepare

    def prepare_slowly(*given, **options):
        own.replace("1.mp4", "anew.")
        return prepare(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "prepare", prepare_slowly)
        with pytest.raises(UserError, match=r"1\.mp4 changed while .* run the same"):
            own.prepare()
    assert not list(own.output.rglob("provenance.json"))
    own.prepare()
    assert len(made) == 2


@pytest.mark.parametrize("change", ["film", "captions", "provenance"])
def test_frames_of_another_folder_are_refused_and_kept(own, made, tmp_path, change):
    shared = tmp_path / "shared"
    path = own.prepare(shared)
    own.output = tmp_path / "second"
    # Of the same captions and films they are shared.
    assert own.prepare(shared) == path
    assert len(made) == 1
    own.output = tmp_path / "third"
    if change == "film":
        own.replace("1.mp4", "anew.")
    elif change == "captions":
        own.captions["1.mp4"] = ["another"]
    else:
        (path / "provenance.json").unlink()
    before = (path / "of").read_text()
    with pytest.raises(UserError) as error:
        own.prepare(shared)
    assert f"{path} holds frames of other " in str(error.value)
    assert "use another --config.data_dir" in str(error.value)
    assert (path / "of").read_text() == before
    assert not own.output.exists()


def test_a_data_folder_that_leads_elsewhere_is_not_the_output_s(own, made, tmp_path):
    own.output.mkdir()
    (tmp_path / "shared").mkdir()
    (own.output / "data").symlink_to(tmp_path / "shared")
    own.prepare()
    before = own.contents()
    own.replace("1.mp4", "anew.")
    with pytest.raises(UserError, match="or remove that folder"):
        own.prepare()
    assert own.contents() == before


def test_a_run_that_has_begun_keeps_its_frames(own, made):
    path = own.prepare()
    own.prepare(begun=True)
    # As own_data.json would be if it had been written for other films.
    (path / "provenance.json").write_text("{}")
    before = own.contents()
    with pytest.raises(UserError, match=r"begun on frames of other .*; use another"):
        own.prepare(begun=True)
    assert own.contents() == before
    own.prepare()
    assert len(made) == 2


def light(path):
    jpeg = load_split(path, "train").frames[0][0]
    return np.asarray(Image.open(io.BytesIO(jpeg))).mean()


def test_decoded_frames_are_those_of_the_film(own, monkeypatch):
    """All of it: real films, decoded into shards that say what they are of."""
    monkeypatch.setattr(preparing, "Workers", lambda *_: InProcess())
    for i, name in enumerate(NAMES):
        film(own.films / name, grey=20 + 60 * i)
    path = own.prepare()
    before = light(path)
    film(own.films / "0.mp4", grey=200)
    assert own.prepare() == path
    assert light(path) - before > 100
    # Whoever else prepares there is told of other films as well.
    given = {"videos": own.films, "annotations": own.output / "captions.csv"}
    sizes = {"num_frames": 2, "image_size": 16}
    data, films = own.output / "data", read_provenance(path)["films"]
    assert preparing.prepare("custom", data, **given, **sizes, films=films) == path
    with pytest.raises(UserError, match="was prepared from other videos"):
        preparing.prepare("custom", data, **given, **sizes, films="others")
