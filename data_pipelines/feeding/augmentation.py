"""Augmentation of training frames, determined by a random key."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

from data_pipelines.console.ranges import Range
from data_pipelines.decoding.sampling import interval_edges, uniform_indices

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Augmentation of training frames; all off by default, as in the paper.

    Attributes:
        flip: whether half of the videos are mirrored horizontally; this also swaps left
            and right in videos whose captions name a side.
        crop: smallest fraction of a frame's area that a random crop keeps; 1 keeps all.
        jitter: whether a frame is drawn from its whole interval instead of the middle;
            needs more stored frames than are used.
    """

    flip: bool = False
    crop: Annotated[float, Range(0, 1, above=True)] = 1.0
    jitter: bool = False


# Each use of a key draws from a random stream of its own.
_FLIP, _CROP, _JITTER = 0, 1, 2


def _uniform(key: "tf.Tensor", use: int, count: int) -> "tf.Tensor":
    import tensorflow as tf

    fold_in = tf.random.experimental.stateless_fold_in  # pyright: ignore
    return tf.random.stateless_uniform([count], fold_in(key, use), dtype=tf.float64)


def pick_frames(
    stored: int, wanted: int, augmentation: Augmentation, key: "tf.Tensor | None" = None
) -> "tf.Tensor":
    """Indices of the stored frames to use, `int64 [F]`.

    Args:
        stored: G, the number of stored frames.
        wanted: F, the number of frames to use.
        augmentation: whether the choice is random (`jitter`).
        key: `int64 [2]`, the random key of this video in this step.
    """
    # Imported late: the configuration needs only the class above.
    import tensorflow as tf

    if key is None or not augmentation.jitter or stored <= wanted:
        return tf.constant(uniform_indices(stored, wanted), tf.int64)
    edges = tf.constant(interval_edges(stored, wanted), tf.int64)
    span = tf.cast(edges[1:] - edges[:-1], tf.float64)
    return edges[:-1] + tf.cast(_uniform(key, _JITTER, wanted) * span, tf.int64)


def augment(
    frames: "tf.Tensor", augmentation: Augmentation, key: "tf.Tensor"
) -> "tf.Tensor":
    """Augments the frames of a video, all in the same way.

    Args:
        frames: `uint8 [F, S, S, 3]`.
        augmentation: what to do.
        key: `int64 [2]`, the random key of this video in this step.

    Returns:
        `uint8 [F, S, S, 3]`.
    """
    import tensorflow as tf

    size = tf.shape(frames)[1]
    if augmentation.crop < 1:
        share, x, y = tf.unstack(_uniform(key, _CROP, 3))
        area = augmentation.crop + share * (1 - augmentation.crop)
        side = tf.maximum(
            tf.cast(tf.round(tf.sqrt(area) * tf.cast(size, tf.float64)), tf.int32), 1
        )
        room = tf.cast(size - side + 1, tf.float64)
        left, top = tf.cast(x * room, tf.int32), tf.cast(y * room, tf.int32)
        frames = frames[:, top : top + side, left : left + side]
        # The filter that the stored frames were resized with.
        frames = tf.image.resize(frames, [size, size], "bicubic", antialias=True)
        frames = tf.saturate_cast(tf.round(frames), tf.uint8)
    if augmentation.flip:
        mirrored = _uniform(key, _FLIP, 1)[0] < 0.5
        frames = tf.where(mirrored, tf.reverse(frames, [2]), frames)
    return frames
