"""The captions of the demo's frames say what is drawn in them."""

import numpy as np
import pytest

from data_pipelines.datasets.demo import world
from data_pipelines.datasets.demo.captions import vocabulary
from data_pipelines.datasets.demo.clip import ClipSpec, Track
from data_pipelines.datasets.demo.drawing import COLOURS
from data_pipelines.datasets.demo.events import RADII
from data_pipelines.datasets.demo.frame_captions import describe, of_training_clips


def clip(*tracks, twin=0):
    return ClipSpec("clip0", "move", 0, twin, 0, "gray", tracks, ("a", "b", "c"))


def track(shape="ring", **changes):
    at = {"x": 0.5, "y": 0.5, "radius": RADII["small"], "colour": COLOURS["red"]}
    still = {name: ((0.0, value),) for name, value in at.items()}
    return Track(shape, **{**still, **changes})


MOVING = track(x=((0.0, 0.19), (1.0, 0.81)), y=((0.0, 0.19),))


@pytest.mark.parametrize(
    ("spec", "first", "last"),
    [
        (
            clip(MOVING),
            "a small red ring at the top left on a gray background",
            "a small red ring at the top right on a gray background",
        ),
        (
            clip(MOVING, twin=1),
            "a small red ring at the top right on a gray background",
            "a small red ring at the top left on a gray background",
        ),
        (
            clip(track(radius=((0.0, RADII["large"]), (1.0, RADII["small"])))),
            "a large red ring at the center on a gray background",
            "a small red ring at the center on a gray background",
        ),
        (
            clip(track(colour=((0.0, COLOURS["blue"]), (1.0, COLOURS["cyan"])))),
            "a small blue ring at the center on a gray background",
            "a small cyan ring at the center on a gray background",
        ),
        (
            clip(track("arrow", angle=((0.0, 0.0), (1.0, -np.pi / 2)))),
            "a small red arrow pointing right at the center on a gray background",
            "a small red arrow pointing down at the center on a gray background",
        ),
        (
            clip(track(opacity=((0.0, 0.0), (1.0, 1.0)))),
            "a gray background",
            "a small red ring at the center on a gray background",
        ),
        (
            clip(track(), track("cross", x=((0.0, 0.81),))),
            "a small red ring at the center and a small red cross at the right on a "
            "gray background",
            "a small red ring at the center and a small red cross at the right on a "
            "gray background",
        ),
    ],
    ids=["move", "twin", "size", "colour", "swing", "appear", "two"],
)
def test_a_caption_says_what_is_drawn(spec, first, last):
    assert describe(spec, np.array([0, 23])) == (first, last)


def test_every_training_clip_has_one_for_each_frame(monkeypatch):
    monkeypatch.setattr(world, "SPLITS", {"train": 64, "validation": 16, "test": 16})
    found = of_training_clips(lambda total: [0, total // 2, total - 1])
    clips = world.sample_clips()["train"]
    assert found.keys() == {clip.clip_id for clip in clips}
    assert {len(x) for x in found.values()} == {3}
    words = {word for x in found.values() for caption in x for word in caption.split()}
    assert words <= set(vocabulary())
    # A clip's twin shows the same, in reverse order.
    for one, other in zip(clips[::2], clips[1::2], strict=True):
        assert found[one.clip_id][::2] == found[other.clip_id][::-2]
