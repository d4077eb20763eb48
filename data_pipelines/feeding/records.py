"""The records of prepared shards, each a serialized `tf.train.Example`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError

from data_pipelines.files.json_files import parse_json
from data_pipelines.preparing.shard_files import check_extras, check_lengths, damaged


class Example(NamedTuple):
    """A record.

    Attributes:
        size: bytes of the record in its file, without its length and checksums.
        video_id: of the video.
        captions: of the video, one at least.
        extras: further JSON values.
        frames: of the video, as JPEG bytes.
    """

    size: int
    video_id: str
    captions: list[str]
    extras: dict[str, Any]
    frames: list[bytes]


def examples(file: str, frame_count: int) -> Iterator[Example]:
    """The records of a shard, in order.

    Args:
        file: the shard.
        frame_count: how many frames each has to hold.

    Raises:
        UserError: the shard is damaged, or a record holds something else.
    """
    check_lengths(file)
    records: Any = tf.data.TFRecordDataset(file, buffer_size=8 << 20)
    elements = naming_damage([file], records.as_numpy_iterator())
    for number, record in enumerate(elements):
        # The record is intact but holds something else.
        try:
            fields = _fields(record)
            video_id, text = _only("video_id", fields), _only("extras", fields)
            captions = [caption.decode() for caption in fields.get("captions", [])]
            frames = fields.get("frames", [])
            if len(frames) != frame_count:
                raise ValueError(f"it has {len(frames)} frames, not {frame_count}")
        except ValueError as error:
            raise damaged(file, f"record {number}: {error}") from None
        if not captions:
            raise damaged(file, f"record {number} has no caption")
        extras = check_extras(
            parse_json(text, f"{file}: extras"), f"{file}: extras of record {number}"
        )
        yield Example(len(record), video_id, captions, extras, frames)


def _fields(record: bytes) -> dict[str, list[bytes]]:
    """The fields of a record that are bytes.

    TensorFlow's own parser, which reads single records later, believes the lengths
    inside of a record and ends the process where they are wrong. So a record must be
    what is written for its fields, and nothing else.

    Raises:
        ValueError: it is not.
    """
    example: Any = tf.train.Example()
    try:
        example.ParseFromString(record)
    except DecodeError:
        raise ValueError("it is no tf.train.Example") from None
    example.DiscardUnknownFields()
    if example.ByteSize() != len(record):
        raise ValueError("it holds more than the fields of a tf.train.Example")
    fields = example.features.feature
    return {name: list(fields[name].bytes_list.value) for name in fields}


def _only(name: str, fields: dict[str, list[bytes]]) -> str:
    """The text of a field that holds one.

    Raises:
        ValueError: it holds none or several, or bytes that are not UTF-8.
    """
    values = fields.get(name, [])
    if len(values) != 1:
        raise ValueError(f"it has {len(values)} texts as {name}, not one")
    return values[0].decode()


def naming_damage(files: Sequence[str], elements: Iterable[Any]) -> Iterator[Any]:
    """Passes on the elements of a data set; a shard that cannot be read is named.

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
                raise damaged(file, found.message) from None
        raise error from None
