"""A prepared split: its captions in memory, its frames there or in their files."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from data_pipelines.errors import UserError

# Bytes read at once where one record is looked for in a file.
_BUFFER = 256 << 10
# Of a split without a validation split no more than one video in so many is held out.
_LEAST_TRAIN = 10


class StoredFrames(Protocol):
    """The stored frames of videos, JPEG bytes."""

    @property
    def count(self) -> int:
        """How many of each video."""
        ...

    def __getitem__(self, video: int) -> list[bytes]:
        """Those of one video."""
        ...

    def read(self, video: tf.Tensor) -> tf.Tensor:
        """The same in a graph: `int64 [] -> string [G]`."""
        ...

    def take(self, videos: np.ndarray) -> "StoredFrames":
        """Those of some videos, in that order; nothing is copied."""
        ...


class MemoryFrames:
    """Frames in host memory.

    Args:
        encoded: `string [W, G]`, a tensor or an object array.
        rows: which row is whose; all in their order by default.
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
    """Frames in their TFRecord files, each record read when it is asked for.

    Args:
        files: the shards.
        file_of: the shard of each video, `int64 [V]`.
        offset: where in it the record begins, `int64 [V]`.
        count: G.
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

        The ops are TensorFlow's own, with no Python in between: a data set of one file
        from one offset, of which the first record is taken.
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


@dataclasses.dataclass(frozen=True)
class Split:
    """A prepared split, its frames still encoded.

    Attributes:
        name: `train`, `validation` or `test`.
        video_ids: of the V videos.
        frames: of each, in memory or on disk.
        captions: of all videos, one after another.
        caption_start: `int64 [V + 1]`; video v's captions are those from
            `caption_start[v]` to `caption_start[v + 1]`.
        extras: what else is known of each video.
        num_frames: F, of which there may be more stored; None takes all.
        files: the shards, to say which one is damaged.
    """

    name: str
    video_ids: list[str]
    frames: StoredFrames
    captions: list[str]
    caption_start: np.ndarray
    extras: list[dict[str, Any]]
    num_frames: int | None = None
    files: Sequence[str] = ()

    @cached_property
    def video_of_caption(self) -> np.ndarray:
        """The video of each caption, `int64 [C]`."""
        return np.repeat(np.arange(len(self.video_ids)), np.diff(self.caption_start))

    def take(self, videos: np.ndarray, captions: int | None = None) -> "Split":
        """Some of the videos, each with its first so many captions, or all."""
        start, end = self.caption_start[videos], self.caption_start[videos + 1]
        end = end if captions is None else np.minimum(end, start + captions)
        return dataclasses.replace(
            self,
            video_ids=[self.video_ids[v] for v in videos],
            frames=self.frames.take(videos),
            captions=[
                self.captions[c]
                for a, b in zip(start, end, strict=True)
                for c in range(a, b)
            ],
            caption_start=np.r_[0, np.cumsum(end - start)],
            extras=[self.extras[v] for v in videos],
        )


class HeldOut(NamedTuple):
    """A training split and what was held out of it."""

    train: Split
    validation: Split


def hold_out(train: Split, count: int, keep: bool = False) -> HeldOut:
    """Makes a validation split of training videos where none is published.

    Which ones depends on their ids alone. Each has its first caption, as test videos of
    such data sets have one.

    Args:
        train: the split as published.
        count: of videos; never more than a tenth.
        keep: whether they are trained on as well.
    """
    total = len(train.video_ids)
    count = max(1, min(count, total // _LEAST_TRAIN))
    digests = [hashlib.sha256(x.encode()).digest() for x in train.video_ids]
    order = sorted(range(total), key=digests.__getitem__)
    held = np.sort(order[:count])
    validation = dataclasses.replace(train.take(held, 1), name="validation")
    rest = np.setdiff1d(np.arange(total), held)
    return HeldOut(train if keep else train.take(rest), validation)


class _Example(NamedTuple):
    """What is read of one record; `frames` are None where they stay on disk."""

    size: int
    video_id: str
    captions: list[str]
    extras: dict[str, Any]
    frames: np.ndarray | None


def load_split(
    path: epath.PathLike,
    split: str,
    num_frames: int | None = None,
    max_bytes: float = float("inf"),
) -> Split:
    """Reads a prepared split.

    Args:
        path: the folder `prepare` returns.
        split: its name.
        num_frames: F; all stored frames by default, otherwise chosen uniformly.
        max_bytes: a split that is larger leaves its frames on disk.

    Raises:
        UserError: nothing is prepared there, there is no such split, it holds fewer
            frames, or a shard is damaged.
    """
    info = _open(path).info
    if split not in info.splits:
        raise UserError(f"{path} has no split {split!r}, only {', '.join(info.splits)}")
    about = info.splits[split]
    files = [str(epath.Path(path) / name) for name in sorted(about.filenames)]
    count = int(info.features["frames"].shape[0])
    if num_frames is not None and num_frames > count:
        raise UserError(
            f"{path} holds {count} frames of each video, fewer than {num_frames}; "
            f"prepare it with --num_frames={num_frames}"
        )
    try:
        fits = sum(epath.Path(file).stat().length for file in files) <= max_bytes
    except OSError as error:
        raise UserError(f"{error.filename} is missing; prepare {path} again") from None
    ids, frames, captions, start, extras = [], [], [], [0], []
    file_of, offset = [], []
    for number, (file, length) in enumerate(
        zip(files, about.shard_lengths, strict=True)
    ):
        position, before = 0, len(ids)
        for example in _examples(file, count if fits else 0):
            ids.append(example.video_id)
            captions += example.captions
            start.append(len(captions))
            extras.append(example.extras)
            frames.append(example.frames)
            file_of.append(number)
            offset.append(position)
            # A record's length, two checksums, and the record.
            position += 16 + example.size
        if len(ids) - before != length:
            raise _damaged(file, f"{len(ids) - before} of {length} records")
    stored = (
        MemoryFrames(np.stack(frames))
        if fits
        else DiskFrames(files, np.array(file_of), np.array(offset), count)
    )
    return Split(
        split, ids, stored, captions, np.array(start), extras, num_frames, files
    )


def split_names(path: epath.PathLike) -> list[str]:
    """The splits that prepared shards have."""
    return list(_open(path).info.splits)


def _open(path: epath.PathLike) -> Any:
    try:
        return tfds.builder_from_directory(str(path))
    # OSError is what TFDS has for a folder without its files.
    except OSError:
        raise UserError(
            f"{path} holds no prepared data set; run python -m data_pipelines.prepare"
        ) from None


def _examples(file: str, frame_count: int) -> Iterator[_Example]:
    """The records of a shard, in order, with so many frames or without any."""
    text = tf.io.FixedLenFeature([], tf.string)
    wanted = {
        "video_id": text,
        "captions": tf.io.RaggedFeature(tf.string),
        "extras": text,
    }
    if frame_count:
        wanted["frames"] = tf.io.FixedLenFeature([frame_count], tf.string)

    def parse(record):
        parsed = tf.io.parse_single_example(record, wanted)
        return {"size": tf.strings.length(record), **parsed}

    records: Any = tf.data.TFRecordDataset(file, buffer_size=8 << 20).map(parse)
    for example in naming_damage([file], records.as_numpy_iterator()):
        yield _Example(
            int(example["size"]),
            example["video_id"].decode(),
            [caption.decode() for caption in example["captions"]],
            json.loads(example["extras"]),
            example.get("frames"),
        )


def naming_damage(files: Sequence[str], elements: Iterable[Any]) -> Iterator[Any]:
    """The elements of a data set; a shard that cannot be read is named.

    Raises:
        UserError: one of the files is damaged or gone.
    """
    try:
        yield from elements
    except (tf.errors.DataLossError, tf.errors.OpError) as error:
        for file in files:
            try:
                for _ in tf.data.TFRecordDataset(file):
                    pass
            except tf.errors.OpError as found:
                raise _damaged(file, found.message) from None
        raise error from None


def _damaged(file: str, why: str) -> UserError:
    why = " ".join(why.split())
    if "corrupted record" in why:
        why = why[why.index("corrupted record") :].partition(" [[")[0]
    return UserError(
        f"{file} is damaged ({why[:120]}); remove its folder and prepare it again"
    )
