"""One clip of the demo: its objects over time, rendering and captions."""

import dataclasses

import numpy as np

from data_pipelines.datasets.demo import captions as words
from data_pipelines.datasets.demo.drawing import BACKGROUNDS, SHAPES, Drawing, draw

FRAMES = 24
# Factors on red, green and blue: the warm tint of the clips.
WARMTH = np.array([1.0, 0.85, 0.7], np.float32)


@dataclasses.dataclass(frozen=True)
class Track:
    """One object over a clip: `(time, value)` key points, linear in between.

    Attributes:
        shape: name of the shape.
        x: key points of the centre from the left; like `y`, a fraction of the side.
        y: key points of the centre from the top.
        radius: key points.
        angle: key points, radians.
        colour: key points of RGB.
        opacity: key points.
    """

    shape: str
    x: tuple
    y: tuple
    radius: tuple
    colour: tuple
    angle: tuple = ((0.0, 0.0),)
    opacity: tuple = ((0.0, 1.0),)


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """One clip.

    Attributes:
        clip_id: unique over all splits.
        family: the kind of event.
        group: number of its group of four.
        twin: 1 for the time-reversed clip of a pair.
        variant: 1 for the pair that shares its last frame with the other pair.
        background: name of the colour.
        tracks: its objects, before any reversal.
        sentences: the three wordings of what happens, reversal included.
    """

    clip_id: str
    family: str
    group: int
    twin: int
    variant: int
    background: str
    tracks: tuple[Track, ...]
    sentences: tuple[str, ...]


def _values(points: tuple, times: np.ndarray) -> np.ndarray:
    """Interpolates key points at the times, `[T]` or `[T, C]`."""
    at = [time for time, _ in points]
    values = np.asarray([value for _, value in points], np.float32)
    if values.ndim == 1:
        return np.interp(times, at, values)
    return np.stack([np.interp(times, at, v) for v in values.T], axis=-1)


def clip_drawing(spec: ClipSpec, moments: np.ndarray) -> Drawing:
    """The drawing of a clip at some of its frames, `moments` `[N]` from 0 to 23."""
    moments = FRAMES - 1 - moments if spec.twin else moments
    times = moments / (FRAMES - 1)

    def stack(field: str) -> np.ndarray:
        return np.stack(
            [_values(getattr(track, field), times) for track in spec.tracks], axis=1
        )

    shapes = [SHAPES.index(track.shape) for track in spec.tracks]
    background = np.asarray(BACKGROUNDS[spec.background], np.float32)
    return Drawing(
        shape=np.tile(shapes, (len(times), 1)),
        x=stack("x"),
        y=stack("y"),
        radius=stack("radius"),
        angle=stack("angle"),
        colour=stack("colour"),
        opacity=stack("opacity"),
        background=np.tile(background, (len(times), 1)),
    )


def render_clip(spec: ClipSpec, size: int = 96) -> np.ndarray:
    """Renders all frames of a clip, `uint8 [24, size, size, 3]`."""
    return film(draw(clip_drawing(spec, np.arange(FRAMES)), size))


def film(frames: np.ndarray) -> np.ndarray:
    """Adds a warm tint and dark corners (vignetting) to clean drawings.

    The backbone is pre-trained on clean stills, so this makes a domain gap between them
    and the clips, as there is between web photographs and videos.

    Args:
        frames: `uint8 [T, H, W, 3]`.
    """
    height, width = frames.shape[1:3]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    light = np.clip(1.1 - 0.4 * (x**2 + y**2), 0, 1)[..., None] * WARMTH
    return np.round(frames * light).astype(np.uint8)


def captions_of(spec: ClipSpec) -> tuple[str, ...]:
    """The clip's 12 captions, wording by wording."""
    return tuple(
        caption
        for sentence in spec.sentences
        for caption in words.templates(sentence, spec.background)
    )
