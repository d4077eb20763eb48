"""The files of parts: what their first lines say, and checksums of their records.

Anyone who may write to the folder may have written a part, and a disk may have damaged
it: its first line is read like any JSON of unknown origin, and its records are held
against the checksums there when they are joined, which reads them anyway.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import IO, Annotated, Any, NamedTuple

from annotated_types import Ge, Le

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.video_status import NOTES, OF_THE_MOMENT, STATUSES
from data_pipelines.files.json_files import StopAtFirst, described, parse_json
from data_pipelines.files.stores import Store

# What a TFRecord file adds to a record: before it its length, 8 bytes, and a checksum
# of that, 4; after it one of the record, 4.
OVERHEAD = 16
_LENGTH = 8
# Most bytes of a part that are read at first; its line is rarely longer. Most of a
# line: 64 videos with the longest paths there are.
_HEAD, _LONGEST_HEAD = 32 << 10, 1 << 20
# Bytes that are summed up at a time.
_CHUNK = 8 << 20
_FAILURES = frozenset(STATUSES) - frozenset(NOTES)
# An `Outcome` as JSON has it.
_Row = tuple[
    str,
    str,
    list[str],
    Annotated[int, Ge(0)],
    Annotated[int, Ge(0), Le(2**32 - 1)],
]


class Outcome(NamedTuple):
    """How a video of a part fared.

    Attributes:
        status: empty if it has a record, else one of `video_status.STATUSES`.
        message: what is wrong.
        notes: harmless statuses.
        size: bytes of its record; 0 if it has none.
        checksum: CRC-32 of its record as the file has it, with its length and the
            checksums of TFRecord; 0 if it has none.
    """

    status: str
    message: str
    notes: Sequence[str]
    size: int
    checksum: int


class Part(NamedTuple):
    """A part that is made.

    Attributes:
        name: of its file.
        outcomes: of its videos, in order.
        start: where its records begin, bytes.
    """

    name: str
    outcomes: list[Outcome]
    start: int

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.start + sum(x.size + OVERHEAD for x in self.outcomes if x.size)

    @property
    def is_final(self) -> bool:
        """Whether no video failed for a reason that may have passed."""
        return not any(x.status in OF_THE_MOMENT for x in self.outcomes)


def read_part(store: Store, name: str, videos: int) -> Part | None:
    """What a part says of itself; None if it is missing, cut off or no such part.

    Args:
        store: the folder of parts.
        name: of its file.
        videos: how many it is of.
    """
    try:
        head = store.read(name, 0, _HEAD)
        if b"\n" not in head:
            head = store.read(name, 0, _LONGEST_HEAD)
    except FileNotFoundError:
        return None
    line, end, _ = head.partition(b"\n")
    if not end:
        return None
    try:
        rows = described(parse_json(line.decode(), name), list[list[Any]], name)
        whole = Annotated[list[_Row], StopAtFirst()]
        outcomes = [Outcome(*x) for x in described([*map(tuple, rows)], whole, name)]
    except (UserError, UnicodeDecodeError):
        return None
    if len(outcomes) != videos or not all(map(_can_be, outcomes)):
        return None
    return Part(name, outcomes, len(line) + 1)


def _can_be(outcome: Outcome) -> bool:
    """Whether an outcome is one of a record, or of a failure."""
    if not outcome.size:
        return outcome.status in _FAILURES and not outcome.checksum
    return not outcome.status and set(outcome.notes) <= set(STATUSES)


def checksums_of(file: IO[bytes], sizes: Iterable[int]) -> list[int]:
    """The checksums of the records of a file.

    Args:
        file: a file of records, from its beginning.
        sizes: bytes of each record.
    """
    found = []
    for size in sizes:
        left, checksum = size + OVERHEAD, 0
        while left:
            piece = file.read(min(left, _CHUNK))
            if not piece:
                raise ValueError(f"the file ends {left} bytes early")
            checksum = zlib.crc32(piece, checksum)
            left -= len(piece)
        found.append(checksum)
    return found


def joined_checksum(checksums: Iterable[int]) -> int:
    """One checksum of several records: that of their checksums."""
    joined = 0
    for checksum in checksums:
        joined = zlib.crc32(checksum.to_bytes(4, "little"), joined)
    return joined


class SummingStream:
    """A stream that passes records on and sums them up.

    Args:
        to: the stream that they are passed to.
    """

    def __init__(self, to: Any):
        self._to = to
        self._checksums: list[int] = []
        self._begin()

    @property
    def checksum(self) -> int:
        """The `joined_checksum` of the complete records so far."""
        return joined_checksum(self._checksums)

    def _begin(self) -> None:
        # Of a record, so far: its length, its checksum, and the bytes that are to come,
        # at first those of the length.
        self._length, self._checksum, self._left = b"", 0, _LENGTH

    def write(self, piece: bytes) -> None:
        """Passes bytes on."""
        self._to.write(piece)
        rest = memoryview(piece)
        while rest:
            own, rest = rest[: self._left], rest[self._left :]
            self._checksum = zlib.crc32(own, self._checksum)
            self._left -= len(own)
            if len(self._length) < _LENGTH:
                self._length += own
                if not self._left:
                    length = int.from_bytes(self._length, "little")
                    self._left = length + OVERHEAD - _LENGTH
            elif not self._left:
                self._checksums.append(self._checksum)
                self._begin()
