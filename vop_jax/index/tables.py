"""The tables of an index: their columns, and the checksums of their rows.

An index is three tables that are only ever appended to, so that any number of processes
write at once and a killed one leaves nothing half-written:

- `moments` holds the moments of a video as a *set*: rows of one random id.
- `videos` says which set belongs to which path. The newest row of a path counts; a row
  is appended after the rows of its set, so a set without a row is unfinished.
- `meta` holds records by name: the first `identity` counts, of others the last.
"""

import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float16, UInt32

FORMAT = 2
# The status of a video that was read to its end, and of a path that exists no more.
OK, REMOVED = "ok", "removed"
_TIME_DIGITS = 12


class _Clock:
    """Milliseconds that only grow, also where the machine's clock is behind others'."""

    def __init__(self):
        self._last, self._lock = 0, threading.Lock()

    def next(self) -> int:
        with self._lock:
            self._last = max(time.time_ns() // 1_000_000, self._last + 1)
            return self._last

    def pass_by(self, name: str) -> None:
        with self._lock:
            self._last = max(self._last, _time_of(name))


_clock = _Clock()


def new_id() -> str:
    """A random id, which sorts behind every earlier one and those passed to `after`."""
    return f"{_clock.next():0{_TIME_DIGITS}x}{secrets.token_hex(6)}"


def after(name: str) -> None:
    """Makes later ids sort behind this one, of whatever machine it is."""
    _clock.pass_by(name)


def _time_of(name: str) -> int:
    """Milliseconds since 1970; 0 of what is not an id."""
    try:
        return int(name[:_TIME_DIGITS], 16)
    except ValueError:
        return 0


def age_of(name: str) -> float:
    """Seconds since an id was made."""
    return time.time() - _time_of(name) / 1000


class VideoRow(NamedTuple):
    """A video of the index, as it was when it was read.

    Attributes:
        id: of the row.
        path: relative to the folder of videos.
        size: bytes.
        mtime_ns: time of modification, POSIX nanoseconds.
        content: hash of samples of its bytes; equal for copies.
        moment_set: id of its moments; empty if none could be read.
        moments: their number.
        duration: seconds; 0 if unknown.
        width: as displayed, pixels; 0 if unknown.
        height: pixels.
        status: `OK`, `REMOVED`, or one of `video_status.STATUSES`.
        note: what is wrong with it.
        identity: digest of what its moments were computed with.
    """

    id: str
    path: str
    size: int
    mtime_ns: int
    content: str
    moment_set: str
    moments: int
    duration: float
    width: int
    height: int
    status: str
    note: str
    identity: str

    def checksum(self) -> int:
        """Of all columns."""
        parts = [os.fsencode(str(value)) for value in self]
        return zlib.crc32(b"".join(struct.pack("<I", len(x)) + x for x in parts))


class MomentRow(NamedTuple):
    """A moment of a video.

    Attributes:
        moment_set: id of the set it belongs to.
        number: position in the video, from 0.
        start: seconds.
        end: seconds.
        vector: its embedding.
        thumbnail: JPEG.
    """

    moment_set: str
    number: int
    start: float
    end: float
    vector: Float16[np.ndarray, "E"]
    thumbnail: bytes


def checksums(
    sets: Sequence[str],
    numbers: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    vectors: Float16[np.ndarray, "N E"],
) -> UInt32[np.ndarray, "N"]:
    """Of moments: every column but the thumbnail, which has a checksum of its own."""
    place = np.empty(len(numbers), np.dtype("<i4, <f8, <f8"))
    place["f0"], place["f1"], place["f2"] = numbers, starts, ends
    found = np.empty(len(numbers), np.uint32)
    crc = zlib.crc32
    rows = np.ascontiguousarray(vectors, "<f2")
    for i, name in enumerate(sets):
        found[i] = crc(rows[i], crc(place[i].tobytes(), crc(name.encode())))
    return found


def moments_schema(size: int) -> Any:
    """Columns of `moments`.

    Args:
        size: E, of the embeddings.
    """
    import pyarrow as pa

    return pa.schema(
        [
            ("moment_set", pa.string()),
            ("number", pa.int32()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("vector", pa.list_(pa.float16(), size)),
            ("checksum", pa.uint32()),
            ("thumbnail", pa.binary()),
            ("thumbnail_checksum", pa.uint32()),
        ]
    )


def videos_schema() -> Any:
    """Columns of `videos`; paths are the file system's bytes, maybe not UTF-8."""
    import pyarrow as pa

    kinds = {
        **dict.fromkeys(("size", "mtime_ns"), pa.int64()),
        **dict.fromkeys(("moments", "width", "height"), pa.int32()),
        **{"path": pa.binary(), "duration": pa.float64()},
    }
    columns = [(name, kinds.get(name, pa.string())) for name in VideoRow._fields]
    return pa.schema([*columns, ("checksum", pa.uint32())])


def meta_schema() -> Any:
    """Columns of `meta`; values are JSON."""
    import pyarrow as pa

    return pa.schema(
        [("name", pa.string()), ("value", pa.binary()), ("checksum", pa.uint32())]
    )


def moments_table(rows: Sequence[MomentRow], size: int) -> Any:
    """Rows of `moments` as an Arrow table."""
    import pyarrow as pa

    sets = [row.moment_set for row in rows]
    numbers = np.array([row.number for row in rows], np.int32)
    starts = np.array([row.start for row in rows], np.float64)
    ends = np.array([row.end for row in rows], np.float64)
    vectors = np.stack([row.vector for row in rows])
    thumbnails = [row.thumbnail for row in rows]
    values = {
        "moment_set": sets,
        "number": numbers,
        "start": starts,
        "end": ends,
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), size),
        "checksum": checksums(sets, numbers, starts, ends, vectors),
        "thumbnail": thumbnails,
        "thumbnail_checksum": np.array([zlib.crc32(x) for x in thumbnails], np.uint32),
    }
    return pa.table(values, schema=moments_schema(size))


def videos_table(rows: Sequence[VideoRow]) -> Any:
    """Rows of `videos` as an Arrow table."""
    import pyarrow as pa

    # A note may quote a path that is not UTF-8.
    kept = [x._replace(note=x.note.encode(errors="replace").decode()) for x in rows]
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in kept] for name in VideoRow._fields
    }
    columns["path"] = [os.fsencode(path) for path in columns["path"]]
    columns["checksum"] = np.array([row.checksum() for row in kept], np.uint32)
    return pa.table(columns, schema=videos_schema())


def vectors_of(column: Any, size: int) -> Float16[np.ndarray, "N E"]:
    """A column of vectors as one array; a missing vector is all NaN."""
    parts = []
    for chunk in column.chunks:
        # A null is stored as any values.
        values = chunk.flatten() if not chunk.null_count else None
        if values is None or values.null_count:
            listed = [row or [np.nan] * size for row in chunk.to_pylist()]
            parts.append(np.array(listed, np.float16).reshape(-1, size))
        else:
            parts.append(values.to_numpy(zero_copy_only=False).reshape(-1, size))
    return np.concatenate(parts) if parts else np.zeros((0, size), np.float16)
