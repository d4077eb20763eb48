"""What each single frame of the demo's clips shows, from the world that is drawn."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.datasets.demo import captions as words
from data_pipelines.datasets.demo import world
from data_pipelines.datasets.demo.clip import FRAMES, ClipSpec, clip_drawing
from data_pipelines.datasets.demo.drawing import COLOURS, SHAPES
from data_pipelines.datasets.demo.events import CENTRES, RADII

# An object that is less opaque is not named.
_VISIBLE = 0.5


def of_training_clips(
    pick: Callable[[int], Sequence[int]],
) -> dict[str, tuple[str, ...]]:
    """The captions of the frames of every training clip, by its id.

    Args:
        pick: the number of a clip's frames -> the indices of those that are described.
    """
    moments = np.array(pick(FRAMES))
    clips = world.sample_clips()["train"]
    return {clip.clip_id: describe(clip, moments) for clip in clips}


def describe(clip: ClipSpec, moments: np.ndarray) -> tuple[str, ...]:
    """One caption for each of some frames of a clip, `[N]` from 0 to 23.

    Attributes between two names take the nearer one's. Without a visible object the
    background alone is named.
    """
    drawing = clip_drawing(clip, moments)
    found = []
    for n in range(len(moments)):
        things = [
            _thing(drawing, n, i)
            for i in range(drawing.shape.shape[1])
            if drawing.opacity[n, i] >= _VISIBLE
        ]
        ground = f"a {clip.background} background"
        shown = " and ".join(things)
        found.append(f"{shown} on {ground}" if shown else ground)
    return tuple(found)


def _thing(drawing: Any, n: int, i: int) -> str:
    """The phrase for an object in a frame."""
    shape = SHAPES[drawing.shape[n, i]]
    colour = _nearest(COLOURS, drawing.colour[n, i])
    noun = words.thing(colour, shape, _nearest(RADII, drawing.radius[n, i]))
    if shape == "arrow":
        quarter = round(float(drawing.angle[n, i]) / (math.pi / 2)) % 4
        noun += f" pointing {words.DIRECTIONS[quarter]}"
    cells = {
        3 * row + column: (CENTRES[column], CENTRES[row])
        for row in range(3)
        for column in range(3)
    }
    cell = _nearest(cells, np.array([drawing.x[n, i], drawing.y[n, i]]))
    return f"{noun} at {words.place(cell)}"


def _nearest(table: Mapping[Any, Any], value: Any) -> Any:
    """The name in a table whose value is the nearest."""
    return min(
        table, key=lambda name: float(np.linalg.norm(np.subtract(table[name], value)))
    )
