"""The file of an index's copy: a head, arrays whose lengths follow from it, and JSON.

The lengths have to be possible and add up to the file's own before anything is
allocated, and the checksum tells of damage. Whoever can write the file can write its
checksum too, so what it holds is checked besides (`snapshot`).
"""

import itertools
import json
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.files.regular_files import content_of, open_regular
from data_pipelines.files.replacing import replacing_file
from vop_jax.index.view import EXACT_BELOW

_MAGIC = b"vop_jax index 1\n"
# Magic, checksum of all behind it, stamp; counts of sets, moments, numbers of a vector
# and bytes of JSON. Arrays behind it are aligned.
_HEAD = struct.Struct("<16sI4x16s4Q")
_CHECKED_FROM = 24
# The most numbers of a vector, several times those of the widest known tower.
_WIDEST = 4_096
# The most bytes of JSON, for paths of some hundred letters. A query does not wait for
# `json_files`, which takes a second more of 100,000 videos, so these bound the memory:
# a video has one or two lists, of more than a hundred bytes and 13 values. Names may
# hold a few brackets and commas, which count as well.
_TEXT = 640 * EXACT_BELOW
_BYTES_A_CONTAINER, _BYTES_A_VALUE, _FREE = 32, 8, 1_000
# File systems that compress give a copy fewer blocks than it has bytes, but not so many
# times fewer; a file with holes states any length.
_PACKED = 4
# A block that holds the file's end only.
_BLOCK = 65_536
# Bytes that are read and added to the checksum at once, while the processor's cache
# has them.
_PART = 1 << 20


class UnusableError(Exception):
    """The file is not such a copy, or it is damaged."""


class Content(NamedTuple):
    """What a file holds: any JSON, and arrays of the right types and shapes."""

    about: Any
    arrays: dict[str, np.ndarray]


def write(
    path: Path, stamp: bytes, about: Any, arrays: dict[str, np.ndarray], size: int
) -> None:
    """Writes a copy in one move, or removes it where it would not be read.

    Args:
        path: the file.
        stamp: 16 bytes, of the tables that it is a copy of.
        about: anything that JSON can hold.
        arrays: `first`, `starts`, `ends`, `numbers` and `vectors`.
        size: E.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(about).encode()
    counts = len(arrays["first"]) - 1, len(arrays["numbers"]), size, len(text)
    if not (_are_possible(*counts) and _is_described(text)):
        path.unlink(missing_ok=True)
        return
    layout = _layout(*counts[:3])
    parts = [
        np.ascontiguousarray(arrays[name], kind).reshape(shape).view(np.uint8).data
        for name, (kind, shape, _) in layout.items()
    ]
    head = _HEAD.pack(_MAGIC, 0, stamp, *counts)
    checksum = zlib.crc32(head[_CHECKED_FROM:])
    for part in (*parts, text):
        checksum = zlib.crc32(part, checksum)
    with replacing_file(path) as file:
        file.write(_HEAD.pack(_MAGIC, checksum, stamp, *counts))
        for part in (*parts, text):
            file.write(part)


def stamp_of(path: Path) -> bytes:
    """The stamp of a copy.

    Raises:
        OSError: there is no file, or it is not a regular one.
        UnusableError: it is of another kind.
    """
    with open_regular(path) as file:
        return _head(content_of(file, _HEAD.size))[1]


def read(path: Path) -> Content:
    """Reads a copy.

    Raises:
        OSError: it cannot be read.
        UnusableError: it is not such a file, or it is damaged.
    """
    with open_regular(path) as file:
        head = content_of(file, _HEAD.size)
        checksum, _, sets, moments, size, text = _head(head)
        if not _are_possible(sets, moments, size, text):
            raise UnusableError("its lengths are of no index")
        layout, about = _layout(sets, moments, size), os.fstat(file.fileno())
        behind = about.st_size - _HEAD.size
        if behind != sum(x for _, _, x in layout.values()) + text:
            raise UnusableError("its lengths do not add up")
        if behind > _PACKED * 512 * about.st_blocks + _BLOCK:
            raise UnusableError("it has holes")
        content = np.empty(behind, np.uint8).data
        found = zlib.crc32(head[_CHECKED_FROM:])
        for start in range(0, behind, _PART):
            part = content[start : start + _PART]
            if file.readinto(part) != len(part):  # pyright: ignore[reportAttributeAccessIssue]
                raise UnusableError("it is cut off")
            found = zlib.crc32(part, found)
    if found != checksum:
        raise UnusableError("its checksum is another")
    arrays = {}
    ends = itertools.accumulate(x for _, _, x in layout.values())
    for (name, (kind, shape, length)), end in zip(layout.items(), ends, strict=True):
        arrays[name] = np.frombuffer(content[end - length : end], kind).reshape(shape)
    listed = bytes(content[behind - text :])
    if not _is_described(listed):
        raise UnusableError("its JSON is hardly more than brackets and commas")
    try:
        return Content(json.loads(listed.decode("ascii")), arrays)
    except (ValueError, RecursionError):
        raise UnusableError("it does not hold JSON") from None


def _are_possible(sets: int, moments: int, size: int, text: int) -> bool:
    """Whether an index can have these counts; vectors of more moments stay on disk."""
    return sets <= moments <= EXACT_BELOW and size <= _WIDEST and text <= _TEXT


def _is_described(text: bytes) -> bool:
    """Whether JSON has no more values for its length than an index has."""
    # NumPy counts them in half the time that `bytes.count` takes.
    letters = np.frombuffer(text, np.uint8)
    containers, values = (
        sum(int(np.count_nonzero(letters == ord(x))) for x in some)
        for some in ("[{", ",")
    )
    return (
        containers <= _FREE + len(text) // _BYTES_A_CONTAINER
        and values <= _FREE + len(text) // _BYTES_A_VALUE
    )


def _head(head: bytes) -> tuple[Any, ...]:
    if len(head) < _HEAD.size or not head.startswith(_MAGIC):
        raise UnusableError("it is of another kind")
    return _HEAD.unpack(head)[1:]


def _layout(
    sets: int, moments: int, size: int
) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Of each array its type, its shape and its bytes, in the order of the file."""
    shapes = {
        "first": ("<i8", (sets + 1,)),
        "starts": ("<f8", (moments,)),
        "ends": ("<f8", (moments,)),
        "numbers": ("<i4", (moments,)),
        "vectors": ("<f2", (moments, size)),
    }
    return {
        name: (kind, shape, int(kind[-1]) * math.prod(shape))
        for name, (kind, shape) in shapes.items()
    }
