"""How training frames are varied; the same key gives the same variation."""

import dataclasses
from typing import TYPE_CHECKING

from data_pipelines.frames import interval_edges, uniform_indices

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training frames are varied; all off by default, as in the paper.

    Attributes:
        flip: whether half of the videos are mirrored, which makes left of right also in
            videos whose captions name a side.
        crop: the least share of a frame's area that is kept; 1 keeps all.
        jitter: whether frames come from anywhere in their interval instead of its
            middle; needs more stored frames than are used.
    """

    flip: bool = False
    crop: float = 1.0
    jitter: bool = False


# Each use of a key draws from a stream of its own.
_FLIP, _CROP, _JITTER = 0, 1, 2


def _uniform(key: "tf.Tensor", use: int, count: int) -> "tf.Tensor":
    import tensorflow as tf

    fold_in = tf.random.experimental.stateless_fold_in  # pyright: ignore
    return tf.random.stateless_uniform([count], fold_in(key, use), dtype=tf.float64)


def pick_frames(
    stored: int, wanted: int, augmentation: Augmentation, key: "tf.Tensor | None" = None
) -> "tf.Tensor":
    """Which of the stored frames are used, `int64 [F]`.

    Args:
        stored: G.
        wanted: F.
        augmentation: whether the choice varies.
        key: `int64 [2]`, of this video in this step.
    """
    # Imported late: the configuration needs the class above alone.
    import tensorflow as tf

    if key is None or not augmentation.jitter or stored <= wanted:
        return tf.constant(uniform_indices(stored, wanted), tf.int64)
    edges = tf.constant(interval_edges(stored, wanted), tf.int64)
    span = tf.cast(edges[1:] - edges[:-1], tf.float64)
    return edges[:-1] + tf.cast(_uniform(key, _JITTER, wanted) * span, tf.int64)


def augment(
    frames: "tf.Tensor", augmentation: Augmentation, key: "tf.Tensor"
) -> "tf.Tensor":
    """Varies the frames of a video, all alike.

    Args:
        frames: `uint8 [F, S, S, 3]`.
        augmentation: how.
        key: `int64 [2]`, of this video in this step.

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
        # The filter that the stored frames were made by.
        frames = tf.image.resize(frames, [size, size], "bicubic", antialias=True)
        frames = tf.saturate_cast(tf.round(frames), tf.uint8)
    if augmentation.flip:
        mirrored = _uniform(key, _FLIP, 1)[0] < 0.5
        frames = tf.where(mirrored, tf.reverse(frames, [2]), frames)
    return frames
