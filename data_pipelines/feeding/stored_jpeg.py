"""Stored frames decoded: JPEG of the size that the shards state, and no other."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

from data_pipelines.feeding.records import naming_damage
from data_pipelines.feeding.split import Split
from data_pipelines.preparing.shard_files import damaged


def decode_frames(frames: tf.Tensor, count: int, side: int | None) -> tf.Tensor:
    """JPEG bytes `[F]` to `uint8 [F, H, W, 3]`, the accurate way.

    Args:
        frames: the bytes.
        count: F.
        side: H and W, or None to take what each frame states.
    """
    checks = []
    if side is not None:
        # A few bytes can state gigapixels, for which memory would be taken.
        encoded = tf.unstack(frames, num=count)
        stated = tf.stack([tf.io.extract_jpeg_shape(x) for x in encoded])[:, :2]
        same = tf.reduce_all(stated == side)
        checks = [tf.debugging.Assert(same, [f"frames not of {side} pixels:", stated])]
    with tf.control_dependencies(checks):
        # Behind the check also where nothing else would wait for it.
        frames = tf.identity(frames)
    return tf.stack(
        [
            tf.io.decode_jpeg(x, channels=3, dct_method="INTEGER_ACCURATE")
            for x in tf.unstack(frames, num=count)
        ]
    )


def naming_frames(split: Split, elements: Iterable[Any]) -> Iterator[Any]:
    """The elements of a data set made of a split's frames.

    Raises:
        UserError: a shard is damaged or gone, or a video's frames are not JPEG of the
            stated size; the file or the video is named.
    """
    try:
        yield from naming_damage(split.files, elements)
    except tf.errors.OpError:
        where = os.path.dirname(split.files[0]) if split.files else split.name
        for video, name in enumerate(split.video_ids):
            try:
                frames: Any = split.frames[video]
                decode_frames(frames, len(frames), split.image_size)
            except tf.errors.OpError as found:
                why = f"the frames of {name[:60]!r}: {found.message}"
                raise damaged(where, why) from None
        raise
