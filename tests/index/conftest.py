"""Small folders of videos, and short ways to update and search them."""

import shutil
import sys
from pathlib import Path

import pytest
from colour_model import COLOURS, ColourModel, write_colour
from moment_index import colour_tokenizer

from vop_jax import search
from vop_jax.index.video_index import VideoIndex


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """Nine videos of different content, some of them in folders."""
    folder = tmp_path_factory.mktemp("rendered")
    for i in range(3):
        for colour, place in zip(COLOURS, ("", "a/", "a/b/"), strict=True):
            # Other copies would keep the moments of the first.
            write_colour(folder / f"{place}{colour}{i}.mp4", shade(colour, i))
    return folder


@pytest.fixture
def videos(rendered, tmp_path):
    return Path(shutil.copytree(rendered, tmp_path / "videos"))


def shade(colour, number):
    """A colour, darker by a little."""
    return tuple(max(0, value - 2 * number) for value in COLOURS[colour])


class Folder:
    """A folder of videos with its index beside it."""

    def __init__(self, videos):
        self.videos, self.index = videos, videos.parent / "index"

    def update(self, model=None, videos=None, **options):
        with VideoIndex.create(self.index) as index:
            return index.update(
                model or ColourModel(), videos or self.videos, "here", **options
            )

    def open(self, **options):
        return VideoIndex.open(self.index, **options)

    def search(self, query, model=None, **options):
        with self.open() as index:
            found = index.search(model or ColourModel(), [query], **options)
            return found.answers[0].hits

    def found(self, query="red", **options):
        """The videos that are found, copies included."""
        options = {"top": 100, **options}
        return {
            x for hit in self.search(query, **options) for x in (hit[1], *hit.copies)
        }


@pytest.fixture
def folder(videos):
    return Folder(videos)


@pytest.fixture
def loaded(monkeypatch):
    """What the command loads, in place of a CLIP."""
    asked = []

    def load_model(checkpoint, num_frames=None, towers=(), dtype="auto"):
        asked.append((str(checkpoint), num_frames, dtype))
        model = ColourModel()
        model.tokenizer = colour_tokenizer()
        return model

    monkeypatch.setattr(search, "load_model", load_model)
    return asked


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command; gives its status and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["search", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            search.main()
        return ended.value.code, *capsys.readouterr()

    return run
