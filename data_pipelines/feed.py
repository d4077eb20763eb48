"""Shards to batches: stateless, the same on any number of hosts, restarted anywhere.

What step i trains on is a function of (seed, i) alone: the order of an epoch is a keyed
permutation of its positions and the choice of a caption is keyed by the position, so
nothing but the step need be remembered. No Python function is in the graph.
"""

import dataclasses
import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from data_pipelines.buckets import bucket_length, caption_lengths
from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
    """A prepared split in host memory, frames still encoded.

    Attributes:
        name: `train`, `validation` or `test`.
        video_ids: of the V videos.
        frames: JPEG bytes, `object [V, F]`.
        captions: of all videos, one after another.
        caption_start: `int64 [V + 1]`; video v's captions are those from
            `caption_start[v]` to `caption_start[v + 1]`.
        extras: what else is known of each video.
    """

    name: str
    video_ids: list[str]
    frames: np.ndarray
    captions: list[str]
    caption_start: np.ndarray
    extras: list[dict[str, Any]]

    @cached_property
    def video_of_caption(self) -> np.ndarray:
        """The video of each caption, `int64 [C]`."""
        return np.repeat(np.arange(len(self.video_ids)), np.diff(self.caption_start))


def load_split(path: epath.PathLike, split: str) -> Split:
    """Reads a prepared split into memory.

    Args:
        path: the folder `prepare` returns.
        split: its name.

    Raises:
        UserError: nothing is prepared there, or there is no such split.
    """
    try:
        builder = tfds.builder_from_directory(str(path))
    # OSError is what TFDS has for a folder without its files.
    except OSError:
        raise UserError(
            f"{path} holds no prepared data set; run python -m data_pipelines.prepare"
        ) from None
    if split not in builder.info.splits:
        raise UserError(
            f"{path} has no split {split!r}, only {', '.join(builder.info.splits)}"
        )
    # TFDS decorates the method in a way that hides its arguments.
    as_dataset: Any = builder.as_dataset
    examples = as_dataset(
        split=split,
        decoders={"frames": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
    )
    ids, frames, captions, start, extras = [], [], [], [0], []
    for example in examples.as_numpy_iterator():
        ids.append(example["video_id"].decode())
        frames.append(example["frames"])
        own = [caption.decode() for caption in example["captions"]]
        captions += own
        start.append(len(captions))
        extras.append(json.loads(example["extras"]))
    return Split(split, ids, np.stack(frames), captions, np.array(start), extras)


def _decode(frames: tf.Tensor, count: int) -> tf.Tensor:
    """JPEG bytes `[F]` to `uint8 [F, H, W, 3]`, the accurate way."""
    return tf.stack(
        [
            tf.io.decode_jpeg(frames[i], channels=3, dct_method="INTEGER_ACCURATE")
            for i in range(count)
        ]
    )


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = True
    return options


class TrainFeed:
    """The training batches of one host.

    Args:
        split: what to train on.
        caption_ids: token ids of all captions, `int32 [C, N]`, padded with 0.
        batch_size: of the global batch.
        seed: of order and caption choice.
        group_size: number of adjacent videos that always share a batch.
        epoch_of: `videos` (each once, with one of its captions) or `pairs` (each
            caption once).
        shard_index: which share of each global batch is this host's.
        shard_count: number of hosts.

    Raises:
        UserError: the split is too small for one batch, or the sizes do not divide.
    """

    def __init__(
        self,
        split: Split,
        caption_ids: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        group_size: int = 1,
        epoch_of: str = "videos",
        shard_index: int = 0,
        shard_count: int = 1,
    ):
        if epoch_of not in ("videos", "pairs"):
            raise UserError(f"epoch_of is {epoch_of!r}; it is 'videos' or 'pairs'")
        if epoch_of == "pairs" and group_size > 1:
            raise UserError("group_size is for epoch_of='videos'; set it to 1")
        if batch_size % group_size or batch_size % shard_count:
            raise UserError(
                f"a batch of {batch_size} does not divide into groups of {group_size} "
                f"and {shard_count} hosts; change the batch size"
            )
        unit_count = len(split.captions if epoch_of == "pairs" else split.video_ids)
        self._units = unit_count // group_size
        self.batch_size = batch_size
        self.steps_per_epoch = self._units * group_size // batch_size
        if not self.steps_per_epoch:
            raise UserError(
                f"the {split.name} split has {unit_count} {epoch_of}, too few for one "
                f"batch of {batch_size}; set a smaller batch size"
            )
        self._split = split
        self._ids = caption_ids
        self._seed = seed
        self._group_size = group_size
        self._epoch_of = epoch_of
        local = batch_size // shard_count
        self._local = slice(shard_index * local, (shard_index + 1) * local)

    def _choose(self, step: Any) -> tuple[Any, Any]:
        """The videos and captions of a global batch, `[B]` each."""
        per_batch = self.batch_size // self._group_size
        epoch, within = step // self.steps_per_epoch, step % self.steps_per_epoch
        positions = within * per_batch + tf.range(per_batch, dtype=tf.int64)
        key = tf.stack([tf.cast(self._seed, tf.int64), epoch])
        last = tf.cast(self._units - 1, tf.int64)
        shuffle = tf.random.experimental.index_shuffle  # pyright: ignore
        chosen = shuffle(positions, key, last)
        if self._epoch_of == "pairs":
            return tf.gather(self._split.video_of_caption, chosen), chosen
        members = tf.range(self._group_size, dtype=tf.int64)
        video = tf.reshape(chosen[:, None] * self._group_size + members, [-1])
        start = tf.gather(self._split.caption_start, video)
        count = tf.gather(self._split.caption_start, video + 1) - start
        uniform = tf.random.stateless_uniform(
            [self.batch_size],
            tf.stack([tf.cast(self._seed, tf.int64), step]),
            dtype=tf.float64,
        )
        caption = start + tf.cast(uniform * tf.cast(count, tf.float64), tf.int64)
        return video, caption

    def batches(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """This host's share of the global batches of steps `start` to `stop`.

        Yields:
            `frames` uint8 `[b, F, H, W, 3]`, `text_ids` int32 `[b, N]` cut to a bucket
            that the global batch's longest caption decides, `video` and `caption`
            int64 `[b]`.
        """
        lengths = caption_lengths(self._ids)
        frame_count = self._split.frames.shape[1]
        encoded = tf.constant(self._split.frames)

        def choose(step):
            video, caption = self._choose(step)
            longest = tf.reduce_max(tf.gather(lengths, caption))
            video, caption = video[self._local], caption[self._local]
            return {
                "video": video,
                "caption": caption,
                "text_ids": tf.gather(self._ids, caption),
                "longest": tf.fill(tf.shape(video), longest),
            }

        def decode(example):
            frames = _decode(tf.gather(encoded, example["video"]), frame_count)
            return {**example, "frames": frames}

        local = self._local.stop - self._local.start
        data: Any = (
            tf.data.Dataset.range(start, stop)
            .map(choose, num_parallel_calls=1, deterministic=True)
            .unbatch()
            .map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .batch(local, drop_remainder=True)
            .prefetch(2)
            .with_options(_options())
        )
        for batch in data.as_numpy_iterator():
            length = bucket_length(int(batch.pop("longest")[0]), self._ids.shape[1])
            batch["text_ids"] = batch["text_ids"][:, :length]
            yield batch


def evaluation_batches(
    split: Split, batch_size: int, shard_index: int = 0, shard_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Every video once, in order; the last batch is filled up and masked.

    Args:
        split: what to evaluate on.
        batch_size: of the global batch.
        shard_index: which share of each global batch is this host's.
        shard_count: number of hosts.

    Yields:
        `frames` uint8 `[b, F, H, W, 3]`, `index` int64 `[b]` of the videos and `mask`
        bool `[b]`, False where a video only fills the batch.
    """
    count, frame_count = len(split.video_ids), split.frames.shape[1]
    local = batch_size // shard_count
    whole = np.arange(-(-count // batch_size) * batch_size)
    own = whole.reshape(-1, shard_count, local)[:, shard_index].reshape(-1)
    encoded = tf.constant(split.frames)

    def decode(index):
        video = tf.minimum(index, count - 1)
        return {
            "frames": _decode(tf.gather(encoded, video), frame_count),
            "index": video,
            "mask": index < count,
        }

    data: Any = (
        tf.data.Dataset.from_tensor_slices(own)
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(local, drop_remainder=True)
        .prefetch(2)
        .with_options(_options())
    )
    yield from data.as_numpy_iterator()
