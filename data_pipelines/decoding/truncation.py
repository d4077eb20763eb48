"""Detects truncated files by the sizes that their containers state.

Counts and durations in a header are often wrong in complete files; the sizes of nested
boxes are not. The answer does not depend on which frames are wanted.
"""

import collections
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from av.container import InputContainer
from av.video.stream import VideoStream

# Parts after which the search for the end of a container stops.
_MOST_PARTS = 1 << 20
_SEGMENT, _CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_MXF_KEY = b"\x06\x0e\x2b\x34"
# Later than any time in a film, in any time base.
_LATEST = 1 << 40
# Sizes of a packet of an MPEG transport stream: as it is, with a time in front as in
# recordings, with check bytes behind as in broadcasts; and where its first byte is.
_TRANSPORT = {188: 0, 192: 4, 204: 0}
_SYNC = b"\x47"
# Bytes in which a stream must show its packets.
_LONGEST_HEAD = 4_096
# What a frame of YUV4MPEG begins with, and bytes of a line of its text.
_FRAME, _LONGEST_LINE = b"FRAME", 256
# Seconds by which a stream may end before its stated end; some writers round.
_SLACK = 0.5


class Part(NamedTuple):
    """A box or element; `end` is None if it states none."""

    kind: bytes
    body: int
    end: int | None


class Walked(NamedTuple):
    """Observations from reading a file's packets.

    Attributes:
        packets: their number, empty and undisplayed ones included.
        end: seconds at which the last of them ends; None if they have no times.
        cut_packet: whether one has fewer bytes than its container states.
    """

    packets: int
    end: float | None
    cut_packet: bool


def is_cut(
    path: Path, container: InputContainer, stream: VideoStream, walked: Walked
) -> bool:
    """Whether bytes of a file's video are missing.

    Args:
        path: the file.
        container: the file, opened.
        stream: its video stream.
        walked: what its packets showed.
    """
    size, name = path.stat().st_size, container.format.name
    stated_seconds = (container.duration or 0) / 1e6
    ends_early = walked.end is not None and walked.end < stated_seconds - _SLACK
    with path.open("rb") as file:
        if name.startswith("mov"):
            listed = bool(stream.frames) and walked.packets >= stream.frames
            return _movie_is_cut(file, size, stream, listed and not walked.cut_packet)
        if name.startswith("matroska"):
            return _matroska_is_cut(file, size, ends_early or not walked.packets)
        if name == "avi":
            claimed = stream.frames
            lacking = walked.packets < claimed if claimed else walked.cut_packet
            return lacking and _riff_is_cut(file, size)
        if name.endswith("flv"):
            return walked.cut_packet or (ends_early and _flash_states(file) > size)
        if name == "mpegts":
            return _transport_is_cut(file, size)
        if name in _NESTLESS:
            parts = _NESTLESS[name](file, size)
            return any(part.end is not None and part.end > size for part in parts)
    return False


def ends_before(path: Path, container: InputContainer) -> bool:
    """Whether a file's video is complete, and what follows it is not video.

    Args:
        path: a file whose packets FFmpeg cannot read to its end.
        container: the file, opened.
    """
    if container.format.name != "yuv4mpegpipe":
        return False
    size = path.stat().st_size
    with path.open("rb") as file:
        last = collections.deque(_y4m_frames(file, size), maxlen=1)
        # Nothing says how many frames there are, but all are equally long: in fewer
        # bytes than those of a frame, none was lost.
        return any(0 <= size - (x.end or 0) < (x.end or 0) - x.body for x in last)


def _movie_is_cut(
    file: BinaryIO, size: int, stream: VideoStream, complete: bool
) -> bool:
    found = list(boxes(file, size))
    if any(box.kind == b"moof" for box in found):
        last = found[-1]
        # The frames of a fragment follow it.
        if last.kind == b"moof" or (last.kind == b"mdat" and (last.end or 0) > size):
            return True
    # The index states where each video frame lies; other tracks do not matter.
    return not complete and any(
        entry.pos + entry.size > size for entry in stream.index_entries
    )


def _read(file: BinaryIO, size: int, start: int, count: int) -> bytes:
    """Bytes from a place on; none from beyond the file, where no system may seek."""
    if start >= size:
        return b""
    file.seek(start)
    return file.read(count)


def boxes(file: BinaryIO, size: int) -> Iterator[Part]:
    """The outermost boxes of an ISO base media file."""
    start = 0
    for _ in range(_MOST_PARTS):
        head = _read(file, size, start, 16)
        if len(head) < 8:
            return
        length, kind, body = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, body = int.from_bytes(head[8:16], "big"), 16
        end = start + length if length else size
        if length and length < body:
            return
        yield Part(kind, start + body, end)
        start = end


def _matroska_is_cut(file: BinaryIO, size: int, lacking: bool) -> bool:
    segment = next((x for x in _elements(file, 0, size) if x.kind == _SEGMENT), None)
    # A live recording states no size.
    if segment is None or segment.end is None or segment.end <= size:
        return False
    last = collections.deque(_elements(file, segment.body, size), maxlen=1)
    # Cues and tags, which come last, are dispensable.
    if any(part.kind == _CLUSTER and (part.end or 0) > size for part in last):
        return True
    return lacking


def _elements(file: BinaryIO, start: int, size: int) -> Iterator[Part]:
    """The elements of a Matroska file from `start` on, without nested ones."""
    for _ in range(_MOST_PARTS):
        if start >= size:
            return
        file.seek(start)
        head = file.read(12)
        kind_length = _vint_length(head[:1])
        if kind_length is None or kind_length > 4:
            return
        kind, rest = head[:kind_length], head[kind_length:]
        length = _vint_length(rest[:1])
        if length is None or len(rest) < length:
            return
        mask = (1 << 7 * length) - 1
        value = int.from_bytes(rest[:length], "big") & mask
        body = start + kind_length + length
        # All ones: of unknown size, up to the end of the file.
        end = None if value == mask else body + value
        yield Part(kind, body, end)
        if end is None:
            return
        start = end


def _vint_length(first: bytes) -> int | None:
    """Length in bytes of a variable-length integer, from its first byte."""
    return 9 - first[0].bit_length() if first and first[0] else None


def _riff_is_cut(file: BinaryIO, size: int) -> bool:
    """Whether the frames of an AVI extend beyond the end of its file."""
    start = 0
    for _ in range(_MOST_PARTS):
        file.seek(start)
        head = file.read(12)
        if len(head) < 12:
            return False
        kind, length = head[:4], int.from_bytes(head[4:8], "little")
        if kind == b"RIFF":
            # The relevant chunks are inside the outermost one.
            start += 12
            continue
        if kind == b"LIST" and head[8:] == b"movi" and start + 8 + length > size:
            return True
        start += 8 + length + length % 2
    return False


def _transport_is_cut(file: BinaryIO, size: int) -> bool:
    """Whether the last packet of an MPEG transport stream is incomplete.

    Nothing else tells: the stream has no index and no size, so that a cut between two
    packets, one of 188 cuts, is like the end of a recording.
    """
    head = _read(file, size, 0, _LONGEST_HEAD)
    for length, before in _TRANSPORT.items():
        begin = head.find(_SYNC)
        while begin >= 0 and head[begin::length] != _SYNC * len(head[begin::length]):
            begin = head.find(_SYNC, begin + 1)
        if begin < 0 or len(head) - begin < 3 * length:
            continue
        last = size - (size - begin + before) % length + before
        # What follows a complete packet and is none was appended.
        return last < size and all(
            _read(file, size, place, 1) == _SYNC for place in (last - length, last)
        )
    return False


def _ivf_frames(file: BinaryIO, size: int) -> Iterator[Part]:
    """The frames of an IVF: a size and a time, then as many bytes."""
    file.seek(6)
    start = int.from_bytes(file.read(2), "little")
    for _ in range(_MOST_PARTS):
        file.seek(start)
        head = file.read(12)
        # What follows the last frame and is none has times that no film has.
        if len(head) < 12 or int.from_bytes(head[4:], "little") >= _LATEST:
            return
        body = start + 12
        start = body + int.from_bytes(head[:4], "little")
        yield Part(b"", body, start)


def _y4m_frames(file: BinaryIO, size: int) -> Iterator[Part]:
    """The frames of a YUV4MPEG file: the word FRAME, then equally many bytes."""
    file.seek(0)
    file.readline(_LONGEST_LINE)
    start, length = file.tell(), 0
    for _ in range(_MOST_PARTS):
        file.seek(start)
        head = file.readline(_LONGEST_LINE)
        if not head.startswith(_FRAME):
            return
        body = start + len(head)
        # The distance to the second frame is that of all.
        length = length or _distance(file, _FRAME)
        if not length:
            return
        start = body + length
        yield Part(b"", body, start)


def _distance(file: BinaryIO, word: bytes) -> int:
    """Bytes from the file's place to the next such word; 0 if there is none."""
    begin, before = file.tell(), b""
    while part := file.read(1 << 20):
        found = (before + part).find(word)
        if found >= 0:
            return file.tell() - len(before) - len(part) + found - begin
        before = part[-len(word) + 1 :]
    return 0


def _gif_blocks(file: BinaryIO, size: int) -> Iterator[Part]:
    """The blocks of a GIF; one without its last byte extends beyond the file."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    file.seek(0)
    head = file.read(13)
    if len(head) < 13:
        return
    start = 13 + table(head[10])
    for _ in range(_MOST_PARTS):
        file.seek(start)
        head = file.read(10)
        # The trailer, its absence, or what is no block.
        if head[:1] not in (b"!", b","):
            return
        body = start + 2
        if head[:1] == b",":
            if len(head) < 10:
                yield Part(b",", start, size + 1)
                return
            body = start + 11 + table(head[9])
        # Sub-blocks, each with its length, up to an empty one.
        length = 1
        while length and body < size:
            file.seek(body)
            length = file.read(1)[0]
            body += 1 + length
        start = body if not length else size + 1
        yield Part(head[:1], body, start)


def _asf_objects(file: BinaryIO, size: int) -> Iterator[Part]:
    """The outermost objects of an ASF: an id, a size that includes both, a body."""
    start = 0
    for _ in range(_MOST_PARTS):
        head = _read(file, size, start, 24)
        length = int.from_bytes(head[16:], "little")
        # A live recording states no size of its data.
        if len(head) < 24 or length < 24:
            return
        if head[:16] == _ASF_DATA:
            yield Part(head[:16], start + 24, start + length)
        start += length


def _mxf_items(file: BinaryIO, size: int) -> Iterator[Part]:
    """The items of an MXF: a key, a length, a value."""
    start = 0
    for _ in range(_MOST_PARTS):
        head = _read(file, size, start, 25)
        if not head or not (head + _MXF_KEY[len(head) :]).startswith(_MXF_KEY):
            return
        if len(head) < 17:
            yield Part(head, start, size + 1)
            return
        count = head[16] & 0x7F if head[16] & 0x80 else 0
        # An unknown length, or none that is.
        if head[16] == 0x80 or count > 8:
            return
        length = int.from_bytes(head[17 : 17 + count], "big") if count else head[16]
        body = start + 17 + count
        start = body + length
        yield Part(head[:16], body, start)


# Containers whose parts follow each other, each of a stated size.
_NESTLESS = {
    "ivf": _ivf_frames,
    "yuv4mpegpipe": _y4m_frames,
    "gif": _gif_blocks,
    "asf": _asf_objects,
    "mxf": _mxf_items,
}


def _flash_states(file: BinaryIO) -> float:
    """The file size that an FLV states; 0 if it states none."""
    name = b"\x00\x08filesize\x00"
    _, _, value = file.read(1 << 16).partition(name)
    return struct.unpack(">d", value[:8])[0] if len(value) >= 8 else 0.0
