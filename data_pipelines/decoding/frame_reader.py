"""Decoded frames of a file: the wanted ones by seeking, or all of them in order."""

import bisect
import contextlib
import errno
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from data_pipelines.decoding.containers import (
    check_pixels,
    grew_too_large,
    open_video,
)
from data_pipelines.decoding.kept_frames import KeptFrames
from data_pipelines.decoding.open_start import begins_open
from data_pipelines.decoding.packets import MAX_FRAMES, MOST_REORDERED, Timeline
from data_pipelines.decoding.sampling import uniform_indices
from data_pipelines.decoding.video_status import VideoError

# A frame with its number in the file and its pixel aspect ratio.
Numbered = tuple[int, av.VideoFrame, Fraction]
# When a frame is displayed and for how long, in ticks; None and 0 if unknown.
Shown = tuple[int | None, int]
# Packets or frames between two reports of progress.
_REPORTED = 256
_HUGE = "has a frame that is too large to decode"
UNSTEADY = "gives other frames each time it is decoded"


class NotSeekableError(Exception):
    """The wanted frame is not where the index states."""


def no_report() -> None:
    """A report of progress that nobody wants."""


def frames_at(
    path: Path,
    timeline: Timeline,
    wanted: Sequence[int],
    kept: KeptFrames,
    *,
    seeking: bool = True,
    threads: int = 1,
    progress: Callable[[], None] = no_report,
) -> Generator[Numbered, None, None]:
    """Decodes frames by their numbers, and as few others as possible.

    Args:
        path: the file.
        timeline: its frames; not doubtful.
        wanted: numbers of frames, ascending; may repeat.
        kept: what tells the pixel aspect ratio.
        seeking: whether to jump ahead where a later keyframe allows it; else all is
            decoded from the beginning on.
        threads: of the decoder.
        progress: called now and then.

    Yields:
        The frames in the order of decoding, which is that of display but for files
        that are not what they state.

    Raises:
        NotSeekableError: a frame does not come where it should.
        FFmpegError: the file is damaged.
        VideoError: without seeking, that its frames become too large.
    """
    times, keyframes = timeline.times, timeline.keyframes
    number = {times[index]: index for index in wanted}
    missing = set(number)
    if timeline.ends_unknown:
        missing.add(times[-1])
    # Ascending; those that have come are dropped when they are the first.
    order = sorted(missing, reverse=True)
    with (
        open_video(path, threads) as (container, stream),
        _growth(path, stream, not seeking),
    ):
        aspect = kept.of(stream)
        position = times[0]
        while missing:
            key = _keyframe_before(keyframes, order[-1]) if seeking else None
            if key is not None and key > position:
                container.seek(key, stream=stream, backward=True, any_frame=False)
            before = len(missing)
            for position, frame in _decode_until(container, stream, missing, progress):
                if position in number:
                    yield number[position], frame, aspect.now()
                missing.discard(position)
                while order and order[-1] not in missing:
                    order.pop()
                if not order:
                    break
                late = bisect.bisect_left(times, position) - MOST_REORDERED
                if late > 0 and order[-1] < times[late]:
                    raise NotSeekableError
                key = _keyframe_before(keyframes, order[-1]) if seeking else None
                if key is not None and key > position:
                    break
            if len(missing) == before:
                raise NotSeekableError


def _keyframe_before(keyframes: Sequence[int], time: int) -> int | None:
    """The last keyframe that is not after a time."""
    place = bisect.bisect_right(keyframes, time)
    return keyframes[place - 1] if place else None


def _decode_until(
    container: InputContainer,
    stream: VideoStream,
    missing: set[int],
    progress: Callable[[], None],
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yields (time, frame) of wanted frames from here on.

    Unwanted frames that no other frame refers to are not decoded.
    """
    context, skipped = stream.codec_context, ""
    last = max(missing)
    for place, packet in enumerate(container.demux(stream), 1):
        if not place % _REPORTED:
            progress()
        # An empty packet in the middle would flush and end the decoder.
        if packet.size == 0 and packet.dts is not None:
            continue
        # An unwanted packet must be decoded only if others refer to it.
        time = packet.pts
        skip = "DEFAULT" if time is None or time in missing else "NONREF"
        if skip != skipped:
            context.skip_frame = skipped = skip
        for frame in packet.decode():
            pts: Any = frame.pts
            if pts in missing:
                yield pts, frame
            elif pts is not None and pts > last:
                return


def keep_uniform(
    path: Path, timeline: Timeline, kept: KeptFrames, count: int, threads: int = 1
) -> int | None:
    """Decodes and keeps `count` uniform frames, and as few others as possible.

    Returns:
        n, the number of frames of the file; None if only a full decode tells.
    """
    if timeline.doubtful:
        return None
    total = len(timeline.times)
    wanted = uniform_indices(total, count)
    try:
        for found in frames_at(path, timeline, wanted, kept, threads=threads):
            kept.keep(*found)
    # Some containers claim to be seekable and are not, and some hold packets without a
    # frame: only a full decode tells what is there.
    except (NotSeekableError, av.error.FFmpegError):
        return None
    return total


def decode_all_or_first(
    path: Path,
    timeline: Timeline,
    kept: KeptFrames,
    count: int,
    *,
    listed: list[Shown] | None = None,
    progress: Callable[[], None] = no_report,
) -> int:
    """Decodes the entire file and keeps `count` uniform frames.

    If that fails, only the packets that its header counts are decoded.

    Args:
        path: the file.
        timeline: its packets.
        kept: collects the frames.
        count: F.
        listed: is filled with the frames' times, up to where decoding fails.
        progress: called now and then.

    Returns:
        n, the number of frames of the file.

    Raises:
        VideoError: it cannot be decoded to its end.
    """
    listed = [] if listed is None else listed
    expected = len(timeline.times)
    try:
        return _decode_all(path, expected, kept, count, None, listed, progress)
    except VideoError:
        if timeline.packets is None:
            raise
    first = timeline.packets
    return _decode_all(path, first, kept, count, first, listed, progress)


def _decode_all(
    path: Path,
    expected: int,
    kept: KeptFrames,
    count: int,
    most: int | None,
    listed: list[Shown],
    progress: Callable[[], None],
) -> int:
    """Decodes the entire file, and again if it does not have the frames expected."""
    for _ in range(2):
        kept.begin()
        listed.clear()
        wanted = set(uniform_indices(expected, count))
        for index, frame, aspect in frames_in_order(path, kept, most, progress):
            listed.append((frame.pts, frame.duration or 0))
            if index in wanted:
                kept.keep(index, frame, aspect)
        total = len(listed)
        if not total:
            raise VideoError("no_video", f"{path} holds no frame")
        if total == expected:
            return total
        expected = total
    raise VideoError("corrupt", f"{path} {UNSTEADY}")


def frames_in_order(
    path: Path,
    kept: KeptFrames,
    most: int | None,
    progress: Callable[[], None] = no_report,
    threads: int = 1,
) -> Generator[Numbered, None, None]:
    """Decodes every frame from the beginning on.

    Args:
        path: the file.
        kept: what tells the pixel aspect ratio.
        most: number of packets to decode; None decodes all.
        progress: called now and then.
        threads: of the decoder.

    Raises:
        VideoError: a frame is damaged or too large, or there are too many.
    """
    with open_video(path, threads) as (container, stream):
        aspect = kept.of(stream)
        total = 0
        try:
            with _growth(path, stream):
                for frame in _decode_in_order(container, stream, most):
                    check_pixels(path, frame.width, frame.height)
                    yield total, frame, aspect.now()
                    total += 1
                    if total > MAX_FRAMES:
                        message = f"{path} has more than {MAX_FRAMES:,} frames"
                        raise VideoError("too_large", message)
                    if not total % _REPORTED:
                        progress()
        except av.error.FFmpegError as error:
            raise damage(path, error) from None


@contextlib.contextmanager
def _growth(path: Path, stream: VideoStream, checked: bool = True) -> Iterator[None]:
    """Says of a decoder that fails whether its frames have become too large."""
    sized = stream.codec_context.width > 0
    try:
        yield
    except av.error.FFmpegError as error:
        if checked and sized and grew_too_large(stream):
            raise VideoError("too_large", f"{path} {_HUGE}") from None
        raise error


def damage(path: Path, error: av.error.FFmpegError) -> VideoError:
    """The status of a file whose decoder fails."""
    if error.errno == errno.ENOMEM:
        return VideoError("too_large", f"{path} {_HUGE}")
    return VideoError("corrupt", f"{path} is damaged ({error.strerror})")


def _decode_in_order(
    container: Any, stream: Any, most: int | None
) -> Iterator[av.VideoFrame]:
    """All frames of a stream, or those of its first packets."""
    opened, keyframes = None, 0
    for packet in itertools.islice(container.demux(stream), most):
        # An empty packet in the middle would flush and end the decoder.
        if not packet.size and packet.dts is not None:
            continue
        if opened is None:
            opened = begins_open(stream, packet)
        keyframes += packet.is_keyframe
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if not opened or keyframes > 1:
                raise
            continue
        yield from frames
    if most is not None:
        # The frames that the decoder holds back, which the last packet brings out.
        yield from stream.codec_context.decode(None)
