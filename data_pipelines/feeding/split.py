"""A prepared split: captions in memory, frames in memory or on disk."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from data_pipelines.console.errors import UserError
from data_pipelines.feeding.records import examples
from data_pipelines.preparing.shard_files import (
    check_shard_files,
    damaged,
    file_size,
    shard_names,
)

# Read buffer, in bytes, for access to single records.
_BUFFER = 256 << 10
# At most one in this many training videos is held out for validation.
_LEAST_TRAIN = 10


class StoredFrames(Protocol):
    """The stored frames of videos, as JPEG bytes."""

    @property
    def count(self) -> int:
        """Frames per video."""
        ...

    def __getitem__(self, video: int) -> list[bytes]:
        """The frames of one video."""
        ...

    def read(self, video: tf.Tensor) -> tf.Tensor:
        """The frames of one video, in a graph: `int64 [] -> string [G]`."""
        ...

    def take(self, videos: np.ndarray) -> "StoredFrames":
        """A view of some videos, in that order; nothing is copied."""
        ...


class MemoryFrames:
    """Frames in host memory.

    Args:
        encoded: `string [W, G]`, a tensor or an object array.
        rows: the row of each video; by default all in order.
    """

    def __init__(self, encoded: Any, rows: np.ndarray | None = None):
        self._encoded: Any = tf.convert_to_tensor(encoded)
        self._rows = np.arange(len(self._encoded)) if rows is None else rows

    @property
    def count(self) -> int:
        """How many of each video."""
        return int(self._encoded.shape[1])

    def __getitem__(self, video: int) -> list[bytes]:
        """Those of one video."""
        return list(self._encoded[int(self._rows[video])].numpy())

    def read(self, video: tf.Tensor) -> tf.Tensor:
        """The same in a graph: `int64 [] -> string [G]`."""
        return tf.gather(self._encoded, tf.gather(self._rows, video))

    def take(self, videos: np.ndarray) -> "MemoryFrames":
        """Those of some videos, in that order; nothing is copied."""
        return MemoryFrames(self._encoded, self._rows[videos])


class DiskFrames:
    """Frames in their TFRecord files, each record read on demand.

    Args:
        files: the shards.
        file_of: the shard of each video, `int64 [V]`.
        offset: byte offset of its record in the shard, `int64 [V]`.
        count: G, frames per video.
    """

    def __init__(
        self,
        files: Sequence[str],
        file_of: np.ndarray,
        offset: np.ndarray,
        count: int,
    ):
        self._files, self._file_of, self._offset = list(files), file_of, offset
        self._count = count

    @property
    def count(self) -> int:
        """How many of each video."""
        return self._count

    def __getitem__(self, video: int) -> list[bytes]:
        """Those of one video."""
        read: Any = self.read(tf.constant(video, tf.int64))
        return list(read.numpy())

    def read(self, video: tf.Tensor) -> tf.Tensor:
        """The same in a graph: `int64 [] -> string [G]`.

        Pure TensorFlow ops without Python in between: a data set of one file from one
        offset, of which the first record is taken.
        """
        raw: Any = tf.raw_ops
        records = raw.TFRecordDatasetV2(
            filenames=tf.gather(self._files, tf.gather(self._file_of, [video])),
            compression_type="",
            buffer_size=_BUFFER,
            byte_offsets=tf.gather(self._offset, [video]),
        )
        kind = {"output_types": [tf.string], "output_shapes": [()]}
        first = raw.TakeDataset(input_dataset=records, count=1, **kind)
        (record,) = raw.DatasetToSingleElement(dataset=first, **kind)
        wanted = {"frames": tf.io.FixedLenFeature([self._count], tf.string)}
        return tf.io.parse_single_example(record, wanted)["frames"]

    def take(self, videos: np.ndarray) -> "DiskFrames":
        """Those of some videos, in that order; nothing is copied."""
        return DiskFrames(
            self._files, self._file_of[videos], self._offset[videos], self._count
        )


def _no_ids() -> np.ndarray:
    return np.zeros((0, 0), np.int32)


@dataclasses.dataclass(frozen=True)
class Split:
    """A prepared split, with its frames still encoded.

    Attributes:
        name: `train`, `validation` or `test`.
        video_ids: of the V videos.
        frames: of each video, in memory or on disk.
        captions: of all videos, one after another.
        caption_start: `int64 [V + 1]`; video v's captions are those from
            `caption_start[v]` to `caption_start[v + 1]`.
        extras: further JSON values of each video.
        num_frames: F, at most the stored number; None uses all.
        files: the shards, to name the one that is damaged.
        image_size: of every frame, pixels; None where that is not stated.
        token_ids: of all captions, `int32 [C, N]`, padded with 0; empty until
            `tokenized` fills it.
        frame_ids: of a caption of each stored frame, `int32 [V, G, M]`, or empty.
    """

    name: str
    video_ids: list[str]
    frames: StoredFrames
    captions: list[str]
    caption_start: np.ndarray
    extras: list[dict[str, Any]]
    num_frames: int | None = None
    files: Sequence[str] = ()
    image_size: int | None = None
    token_ids: np.ndarray = dataclasses.field(default_factory=_no_ids)
    frame_ids: np.ndarray = dataclasses.field(default_factory=_no_ids)

    def tokenized(self, tokenize: Callable[[list[str]], np.ndarray]) -> "Split":
        """The same split with its captions' token ids."""
        return dataclasses.replace(self, token_ids=tokenize(self.captions))

    @cached_property
    def video_of_caption(self) -> np.ndarray:
        """The video of each caption, `int64 [C]`."""
        return np.repeat(np.arange(len(self.video_ids)), np.diff(self.caption_start))

    def videos(self) -> Iterator[tuple[str, list[str]]]:
        """The id and the captions of each video."""
        for i, video_id in enumerate(self.video_ids):
            start, end = self.caption_start[i : i + 2]
            yield video_id, self.captions[start:end]

    def take(self, videos: np.ndarray, captions: int | None = None) -> "Split":
        """Some of the videos, each with its first `captions` captions, or all."""
        start, end = self.caption_start[videos], self.caption_start[videos + 1]
        end = end if captions is None else np.minimum(end, start + captions)
        taken = [c for a, b in zip(start, end, strict=True) for c in range(a, b)]
        return dataclasses.replace(
            self,
            video_ids=[self.video_ids[v] for v in videos],
            frames=self.frames.take(videos),
            captions=[self.captions[c] for c in taken],
            token_ids=self.token_ids[taken] if len(self.token_ids) else self.token_ids,
            frame_ids=self.frame_ids[videos] if len(self.frame_ids) else self.frame_ids,
            caption_start=np.r_[0, np.cumsum(end - start)],
            extras=[self.extras[v] for v in videos],
        )


class HeldOut(NamedTuple):
    """A training split and the validation split held out of it."""

    train: Split
    validation: Split


def held_out_count(total: int, count: int) -> int:
    """How many of `total` videos `hold_out` takes."""
    return max(1, min(count, total // _LEAST_TRAIN))


def hold_out(train: Split, count: int, keep: bool = False) -> HeldOut:
    """Makes a validation split of training videos if none is published.

    The choice depends on the video ids alone. Each has only its first caption, since
    test videos of such data sets have one.

    Args:
        train: the split as published.
        count: number of videos; never more than a tenth.
        keep: whether they also stay in the training split.
    """
    total = len(train.video_ids)
    count = held_out_count(total, count)
    digests = [hashlib.sha256(x.encode()).digest() for x in train.video_ids]
    order = sorted(range(total), key=digests.__getitem__)
    held = np.sort(order[:count])
    validation = dataclasses.replace(train.take(held, 1), name="validation")
    rest = np.setdiff1d(np.arange(total), held)
    return HeldOut(train if keep else train.take(rest), validation)


def load_split(
    path: epath.PathLike,
    split: str,
    num_frames: int | None = None,
    max_bytes: float = float("inf"),
) -> Split:
    """Reads a prepared split.

    Args:
        path: the folder that `prepare` returns.
        split: its name.
        num_frames: F, sampled uniformly; by default all stored frames.
        max_bytes: the frames of a larger split stay on disk.

    Raises:
        UserError: nothing is prepared there, there is no such split, it holds fewer
            frames or no video, or a shard is damaged.
    """
    info = _open(path).info
    if split not in info.splits:
        raise UserError(f"{path} has no split {split!r}, only {', '.join(info.splits)}")
    about = info.splits[split]
    files = [str(epath.Path(path) / name) for name in shard_names(path, about)]
    count = int(info.features["frames"].shape[0])
    if num_frames is not None and num_frames > count:
        raise UserError(
            f"{path} holds {count} frames of each video, fewer than {num_frames}; "
            f"prepare it with --num_frames={num_frames}"
        )
    # Large splits leave their frames on disk.
    try:
        fits = sum(map(file_size, files)) <= max_bytes
    except OSError as error:
        raise UserError(f"{error.filename} is missing; prepare {path} again") from None
    # Read all captions, and the frames or the offsets of their records.
    ids, frames, captions, start, extras = [], [], [], [0], []
    file_of, offset = [], []
    for number, (file, length) in enumerate(
        zip(files, about.shard_lengths, strict=True)
    ):
        position, before = 0, len(ids)
        for example in examples(file, count):
            ids.append(example.video_id)
            captions += example.captions
            start.append(len(captions))
            extras.append(example.extras)
            if fits:
                frames.append(example.frames)
            file_of.append(number)
            offset.append(position)
            # A TFRecord: 8 bytes of length, two checksums of 4 bytes, and the data.
            position += 16 + example.size
        if len(ids) - before != length:
            raise damaged(file, f"{len(ids) - before} of {length} records")
    if not ids:
        raise UserError(f"{path}: the split {split} holds no video; prepare it again")
    if len({"twin" in extra for extra in extras}) > 1:
        raise UserError(f"{path}: some videos of {split} have extras, others none")
    stored = (
        MemoryFrames(np.stack(frames))
        if fits
        else DiskFrames(files, np.array(file_of), np.array(offset), count)
    )
    return Split(
        split,
        ids,
        stored,
        captions,
        np.array(start),
        extras,
        num_frames,
        files,
        int(info.features["frames"].shape[1]),
    )


def split_sizes(path: epath.PathLike) -> dict[str, int]:
    """The number of videos of each split of prepared shards."""
    splits = _open(path).info.splits
    return {name: int(about.num_examples) for name, about in splits.items()}


def _open(path: epath.PathLike) -> Any:
    folder = epath.Path(path)
    if not (folder / "dataset_info.json").exists():
        raise UserError(
            f"{path} holds no prepared data set; run python -m data_pipelines.prepare"
        )
    check_shard_files(folder)
    try:
        return tfds.builder_from_directory(str(path))
    # TFDS raises errors of its own, of protobuf and of Python for unreadable files.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise UserError(
            f"{path} cannot be read ({reason}); remove it and prepare it again"
        ) from None
