"""Four films with odd names, and their index."""

import os

import pytest
from colour_model import COLOURS, ColourModel, write_colour

from vop_jax.index.video_index import VideoIndex

HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m.mp4"
# Bytes that are no UTF-8.
ODD = os.fsdecode(b"\xff\xfe.mp4")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of videos with its index."""
    folder = tmp_path_factory.mktemp("made")
    for name, colour in zip((HOSTILE, ODD, "a/blue.mp4"), COLOURS, strict=True):
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        write_colour(folder / "x.mp4", colour).rename(target)
    write_colour(folder / "purple.mp4", (120, 0, 120))
    with VideoIndex.create(folder.parent / "made.index") as index:
        index.update(ColourModel(), folder, "checkpoint")
    return folder, folder.parent / "made.index"
