"""The display times of a video's frames, from its packets; nothing is decoded."""

import dataclasses
import errno
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from data_pipelines.decoding.containers import open_video
from data_pipelines.decoding.memory import reading_tables
from data_pipelines.decoding.open_start import begins_open
from data_pipelines.decoding.truncation import Walked, ends_before, is_cut
from data_pipelines.decoding.video_status import VideoError

# Most frames of a file: over 30 hours at 30 per second.
MAX_FRAMES = 1 << 22
# Decoders reorder frames within a window of at most this many frames or fields.
MOST_REORDERED = 32
# Containers that state their sizes, so that truncation shows without decoding; in
# others the last frame must be decoded to tell.
_SIZED = ("mov", "matroska", "avi", "flv", "live_flv")
# Containers whose header counts the packets that follow: what comes after them need not
# be video.
_COUNTED = ("ivf",)
# Containers whose packets can be changes to the previous picture.
_CUMULATIVE = ("gif", "apng")
# Pixels whose palette comes with the first packet and is kept by the decoder.
_PALETTE = "pal8"
# An MPEG-4 frame that only repeats the previous one has fewer bytes and is dropped.
_LEAST_BYTES = {"mpeg4": 16}


def _vp8_hides(packet: av.Packet) -> bool:
    return not memoryview(packet)[0] & 0x10


def _vp9_hides(packet: av.Packet) -> bool:
    data = memoryview(packet)
    # A superframe: several frames in one packet, of which the last is displayed.
    if data[-1] & 0xE0 == 0xC0:
        return False
    first = data[0] << 8 | data[1] if len(data) > 1 else data[0] << 8
    # Profile 3 has one more bit.
    first <<= (first >> 12 & 3) == 3
    return not first & 0x0800 and not first & 0x0200


# By codec, whether a packet holds a frame that is referred to but not displayed.
_HIDES = {"vp8": _vp8_hides, "vp9": _vp9_hides}


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The frames of a video, as far as its packets tell.

    Attributes:
        times: of the frames, in display order, in the stream's time base.
        keyframes: the times of the frames where decoding can begin.
        doubtful: whether only decoding the entire file tells which frames it has.
        ends_unknown: whether only decoding the last frame shows if the file ends early.
        packets: after how many packets the video may be complete, though the file goes
            on; None if it does not.
        tick: the time base, seconds.
        step: the time for which the last frame is displayed, in ticks.
        rate: frames per second that the file states; 0 if it does not.
        cut: what is wrong, if the file was cut off; its times are then those of the
            packets that are complete.
    """

    times: list[int]
    keyframes: list[int]
    doubtful: bool
    ends_unknown: bool
    packets: int | None = None
    tick: Fraction = Fraction(1)
    step: int = 0
    rate: Fraction = Fraction(0)
    cut: VideoError | None = None


def read_timeline(path: Path, *, partial: bool = False) -> Timeline:
    """Reads the packets of a file.

    Args:
        path: the file.
        partial: whether to return what can be read of a truncated file; else it is an
            error.

    Raises:
        VideoError: the file cannot be read, is truncated, too large or holds no video.
    """
    with reading_tables(), open_video(path) as (container, stream):
        walk = _Walk(path, container, stream)
        name, claimed = container.format.name, stream.frames
        cut = is_cut(path, container, stream, walk.walked)
        # AVI stores no display times; FFmpeg then gives packets their decoding times.
        reordered = name == "avi" and stream.codec_context.has_b_frames
        palette = stream.codec_context.pix_fmt == _PALETTE
        tick = Fraction(stream.time_base or 0)
        rate = Fraction(stream.average_rate or stream.guessed_rate or 0)
    error = None
    if cut:
        error = VideoError("truncated", f"{path} was cut off: bytes of it are missing")
        walk.drop_incomplete()
        if not partial or not walk.times:
            raise error
    times, keyframes = walk.times, walk.keyframes
    if not times:
        if walk.broken:
            raise VideoError("corrupt", f"{path} is damaged ({walk.broken})")
        # For example, a mov may state that they are in another file.
        if claimed:
            message = f"{path} holds none of the {claimed:,} frames that it lists"
            raise VideoError("unreadable", message)
        raise VideoError("no_video", f"{path} holds no frame")
    if (
        walk.doubtful
        or reordered
        or palette
        or name in _CUMULATIVE
        or not in_order(times, keyframes)
    ):
        numbers = list(range(len(times)))
        return Timeline(numbers, [], True, False, walk.most, tick, 0, rate, error)
    ends_unknown = not name.startswith(_SIZED)
    times, keyframes = sorted(times), sorted(keyframes)
    step = step_of(times, walk.last_duration, tick, rate)
    known = (False, ends_unknown, walk.most, tick, step, rate, error)
    return Timeline(times, keyframes, *known)


def step_of(times: Sequence[int], last: int, tick: Fraction, rate: Fraction) -> int:
    """For how long the last frame is displayed, in ticks.

    Args:
        times: of the frames, ascending, in ticks.
        last: what the file states; 0 or less if nothing.
        tick: the time base, seconds.
        rate: frames per second; 0 if unknown.
    """
    if last > 0:
        return last
    if rate > 0 and tick > 0:
        return round(1 / (rate * tick))
    return (times[-1] - times[0]) // max(1, len(times) - 1)


class _Walk:
    """One pass over the packets of a file.

    Attributes:
        times: of the displayed packets, in decoding order; None if one has no time.
        keyframes: the times among them where decoding can begin.
        doubtful: whether the number of packets may differ from the number of frames.
        broken: FFmpeg's error if it cannot continue; empty otherwise.
        most: see `Timeline.packets`.
        walked: what `truncation.is_cut` needs to know.
        last_duration: of the packet that is displayed last, in ticks; 0 if unknown.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream):
        self.times, self.keyframes, self.broken = [], [], ""
        self.doubtful = cut_packet = False
        self.last_duration, latest = 0, None
        self._incomplete: set[int] = set()
        codec = stream.codec_context.name
        hides, least = _HIDES.get(codec), _LEAST_BYTES.get(codec, 0)
        # In an FLV that is truncated within its sound, pictures are missing as well.
        sound = container.format.name.endswith("flv")
        packets, last = 0, None
        counted = stream.frames if container.format.name in _COUNTED else 0
        more = False
        times, keyframes = self.times, self.keyframes
        discarded = set()
        # Collect the display times of the packets that are displayed.
        try:
            for packet in container.demux(() if sound else stream):
                size = packet.size
                # The packets that FFmpeg appends to flush the decoder.
                if not size and packet.dts is None and packet.pts is None:
                    continue
                if packet.is_corrupt:
                    cut_packet = True
                if sound and packet.stream_index != stream.index:
                    continue
                packets += 1
                if packets > MAX_FRAMES:
                    message = f"{path} has more than {MAX_FRAMES:,} frames"
                    raise VideoError("too_large", message)
                # An empty packet repeats the previous picture.
                if not size:
                    continue
                if last is None and not discarded and begins_open(stream, packet):
                    self.doubtful = True
                # An edit list excludes it from display.
                if packet.is_discard:
                    discarded.add(len(times))
                    continue
                if size < least or (hides is not None and hides(packet)):
                    self.doubtful = True
                last = packet
                time = packet.pts
                if time is not None and (latest is None or time > latest):
                    latest, self.last_duration = time, packet.duration or 0
                if packet.is_corrupt:
                    self._incomplete.add(len(times))
                times.append(time)
                if packet.is_keyframe:
                    keyframes.append(time)
        except av.error.FFmpegError as error:
            if counted and packets >= counted:
                more = True
            elif ends_before(path, container):
                counted, more = packets, True
            elif error.errno == errno.ENOMEM:
                message = f"{path} takes too much memory to read"
                raise VideoError("too_large", message) from None
            else:
                self.broken = error.strerror or type(error).__name__
        # An edit list joins pieces from several places.
        joined = any(0 < place < len(times) for place in discarded)
        self.most = counted if more or packets > counted > 0 else None
        self._doubtful_if_cut = self.doubtful or joined
        self.doubtful |= cut_packet or joined or bool(self.broken)
        # The end of the last displayed packet, in seconds.
        end = None
        if latest is not None and last is not None:
            end = (latest + (last.duration or 0)) * float(stream.time_base or 0)
        self.walked = Walked(packets, end, cut_packet)

    def drop_incomplete(self) -> None:
        """Leaves out the packets that end early, in a file that is known to be cut."""
        dropped = {self.times[place] for place in self._incomplete}
        self.times = [
            time
            for place, time in enumerate(self.times)
            if place not in self._incomplete
        ]
        self.keyframes = [time for time in self.keyframes if time not in dropped]
        # The cut explains what else would make them doubtful.
        self.doubtful = self._doubtful_if_cut


def in_order(times: list[int], keyframes: list[int]) -> bool:
    """Whether all frames have a time and are displayed in the order of their times."""
    if None in times or len(set(times)) < len(times):
        return False
    # Frames before the first keyframe may not be decodable.
    if not keyframes or min(times) < keyframes[0]:
        return False
    # A time that jumps back would imply a reordering that no decoder performs.
    moved = np.argsort(np.array(times)) - np.arange(len(times))
    return bool(np.abs(moved).max() <= MOST_REORDERED)
