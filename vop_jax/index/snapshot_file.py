"""The file of an index's copy: a head, arrays whose lengths follow from it, and JSON.

The lengths have to add up to the file's own before anything is allocated, and the
checksum tells of damage. Whoever can write the file can write its checksum too, so what
it holds is checked besides (`snapshot`).
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
from data_pipelines.files.replacing import replacing

_MAGIC = b"vop_jax index 1\n"
# Magic, checksum of all behind it, stamp; counts of sets, moments, numbers of a vector
# and bytes of JSON. Arrays behind it are aligned.
_HEAD = struct.Struct("<16sI4x16s4Q")
_CHECKED_FROM = 24
# A larger one would be held in memory on the word of its length alone, which a file
# with holes can state.
_LARGEST = 8 << 30
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
    """Writes a copy in one move.

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
    layout = _layout(*counts[:3])
    if sum(x for _, _, x in layout.values()) + len(text) > _LARGEST:
        path.unlink(missing_ok=True)
        return
    parts = [
        np.ascontiguousarray(arrays[name], kind).reshape(shape).view(np.uint8).data
        for name, (kind, shape, _) in layout.items()
    ]
    head = _HEAD.pack(_MAGIC, 0, stamp, *counts)
    checksum = zlib.crc32(head[_CHECKED_FROM:])
    for part in (*parts, text):
        checksum = zlib.crc32(part, checksum)
    # Unfinished copies of two processes must not mix. Nothing that is there is opened:
    # a link would lead out of the folder.
    with replacing(path, f"{os.getpid()}") as partial, partial.open("xb") as file:
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
        checksum, _, *counts, text = _head(head)
        layout = _layout(*counts)
        behind = os.fstat(file.fileno()).st_size - _HEAD.size
        if behind != sum(x for _, _, x in layout.values()) + text or behind > _LARGEST:
            raise UnusableError("its lengths do not add up")
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
    try:
        about = json.loads(bytes(content[behind - text :]).decode("ascii"))
    except (ValueError, RecursionError):
        raise UnusableError("it does not hold JSON") from None
    return Content(about, arrays)


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
