"""H.264 that begins in the middle of what was coded, as a cut without coding anew does.

Its first frames lean on some that the cut left behind. FFmpeg decodes them, and calls
each reference to what is not there damage when it is told to be strict.
"""

from collections.abc import Iterator

import av
from av.video.stream import VideoStream

# Kinds of units (ITU-T H.264, table 7-1): parts of a picture, of one that starts anew.
_PICTURES, _ANEW = range(1, 6), 5


def begins_open(stream: VideoStream, first: av.Packet) -> bool:
    """Whether what comes before the second keyframe may lean on what is not there.

    Args:
        stream: the video.
        first: its first packet.
    """
    if stream.codec_context.name != "h264":
        return False
    about = stream.codec_context.extradata or b""
    units = _sized(first, (about[4] & 3) + 1) if about[:1] == b"\1" else _marked(first)
    kinds = (unit & 31 for unit in units)
    kind = next((kind for kind in kinds if kind in _PICTURES), _ANEW)
    return kind != _ANEW


def _sized(packet: av.Packet, length: int) -> Iterator[int]:
    """The first byte of each unit, where its size stands before it."""
    data, start = memoryview(packet), length
    while start < len(data):
        yield data[start]
        start += int.from_bytes(data[start - length : start], "big") + length


def _marked(packet: av.Packet) -> Iterator[int]:
    """The first byte of each unit, where three bytes announce it."""
    data = bytes(packet)
    start = data.find(b"\0\0\1")
    while 0 <= start < len(data) - 3:
        yield data[start + 3]
        start = data.find(b"\0\0\1", start + 3)
