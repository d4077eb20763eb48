"""The input pipeline: stateless, equal on any number of hosts, resumed at any step.

The batch of step i is a function of (seed, i) alone: the order of an epoch is a keyed
permutation of its positions, and the choice of a caption and every augmentation are
keyed by the position, so the step is the only state. No Python function is in the
TensorFlow graph.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipelines.console.errors import UserError
from data_pipelines.feeding.augmentation import Augmentation, augment, pick_frames
from data_pipelines.feeding.split import Split
from data_pipelines.feeding.stored_jpeg import decode_frames, naming_frames
from data_pipelines.text.buckets import (
    BUCKETS,
    bucket_length,
    bucket_lengths,
    caption_lengths,
    used_lengths,
)


def _number_texts(ids: np.ndarray) -> np.ndarray:
    """Numbers the captions, `[C, N] -> [C]`; equal token ids get equal numbers."""
    numbers: dict[bytes, int] = {}
    return np.array(
        [
            numbers.setdefault(row[:length].tobytes(), len(numbers))
            for row, length in zip(ids, caption_lengths(ids), strict=True)
        ],
        np.int32,
    )


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = True
    return options


class TrainFeed:
    """The training batches of one host.

    Args:
        split: what to train on, tokenized.
        batch_size: of the global batch.
        seed: of order and caption choice.
        group_size: number of adjacent videos that are always in the same batch.
        epoch_of: `videos` (each once, with one of its captions) or `pairs` (each
            caption once).
        identity: what batches identify each pair by: `video`, `text` (captions with
            equal token ids, after truncation, are one text), both or neither.
        augmentation: of the frames.
        epochs: of the run, from which follows what lengths its batches are padded to,
            see `used_lengths`; None pads to every bucket.
        buckets: lengths that captions may be padded to, besides the full one; none for
            a text tower that reads its padding.
        shard_index: which shard of each global batch is this host's.
        shard_count: number of hosts.

    Raises:
        UserError: the split is too small for one batch, or the sizes do not divide.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        group_size: int = 1,
        epoch_of: str = "videos",
        identity: Sequence[str] = (),
        augmentation: Augmentation | None = None,
        epochs: int | None = None,
        buckets: Sequence[int] = BUCKETS,
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
        limit = split.token_ids.shape[1]
        self._text_lengths = bucket_lengths(limit, buckets)
        if epochs is not None:
            self._text_lengths = used_lengths(
                caption_lengths(split.token_ids),
                limit,
                batch_size=batch_size,
                steps=epochs * self.steps_per_epoch,
                buckets=buckets,
            )
        self._seed = seed
        self._group_size = group_size
        self._epoch_of = epoch_of
        self._identity = tuple(identity)
        self._texts = _number_texts(split.token_ids) if "text" in identity else None
        self._augmentation = augmentation or Augmentation()
        local = batch_size // shard_count
        self._local = slice(shard_index * local, (shard_index + 1) * local)

    def _choose(self, step: Any) -> tuple[Any, Any]:
        """Indices of the videos and captions of a global batch, `[B]` each."""
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

    def _identified(self, video: Any, caption: Any) -> dict[str, Any]:
        """The entry `identity` of pairs, if it is asked for."""
        if not self._identity:
            return {}
        columns = {"video": video}
        if self._texts is not None:
            columns["text"] = tf.gather(self._texts, caption)
        chosen = [tf.cast(columns[name], tf.int32) for name in self._identity]
        return {"identity": tf.stack(chosen, axis=-1)}

    def batches(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields this host's shard of the global batches of steps `start` to `stop`.

        Yields:
            `frames` uint8 `[b, F, H, W, 3]`, `text_ids` int32 `[b, N]` cut to the
            least length for the global batch's longest caption, `video` and `caption`
            int64 `[b]`; with an identity, `identity` int32 `[b, K]`, its columns in
            the order asked for; with captions of frames, `frame_ids` int32
            `[b, F, M]`.
        """
        split, ids = self._split, self._split.token_ids
        lengths = caption_lengths(ids)
        wanted = split.num_frames or split.frames.count
        place = np.arange(self.batch_size)[self._local]
        described = len(split.frame_ids) > 0

        def choose(step):
            video, caption = self._choose(step)
            longest = tf.reduce_max(tf.gather(lengths, caption))
            video, caption = video[self._local], caption[self._local]
            return self._identified(video, caption) | {
                "video": video,
                "caption": caption,
                "text_ids": tf.gather(ids, caption),
                "longest": tf.fill(tf.shape(video), longest),
                "position": step * self.batch_size + place,
            }

        def decode(example):
            key = tf.stack([tf.cast(self._seed, tf.int64), example.pop("position")])
            picks = pick_frames(split.frames.count, wanted, self._augmentation, key)
            encoded = tf.gather(split.frames.read(example["video"]), picks)
            whole = decode_frames(encoded, wanted, split.image_size)
            frames = augment(whole, self._augmentation, key)
            if described:
                of_video = tf.gather(split.frame_ids, example["video"])
                example["frame_ids"] = tf.gather(of_video, picks)
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
        for batch in naming_frames(split, data.as_numpy_iterator()):
            longest = int(batch.pop("longest")[0])
            length = bucket_length(longest, ids.shape[1], self._text_lengths)
            batch["text_ids"] = batch["text_ids"][:, :length]
            yield batch


def evaluation_batches(
    split: Split, batch_size: int, shard_index: int = 0, shard_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every video once, in order; the last batch is padded and masked.

    Args:
        split: what to evaluate on.
        batch_size: of the global batch.
        shard_index: which shard of each global batch is this host's.
        shard_count: number of hosts.

    Yields:
        `frames` uint8 `[b, F, H, W, 3]`, `index` int64 `[b]` of the videos and `mask`
        bool `[b]`, False where a video only pads the batch.
    """
    count, wanted = len(split.video_ids), split.num_frames or split.frames.count
    picks = pick_frames(split.frames.count, wanted, Augmentation())
    local = batch_size // shard_count
    whole = np.arange(-(-count // batch_size) * batch_size)
    own = whole.reshape(-1, shard_count, local)[:, shard_index].reshape(-1)

    def decode(index):
        video = tf.minimum(index, count - 1)
        encoded = tf.gather(split.frames.read(video), picks)
        return {
            "frames": decode_frames(encoded, wanted, split.image_size),
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
    yield from naming_frames(split, data.as_numpy_iterator())
