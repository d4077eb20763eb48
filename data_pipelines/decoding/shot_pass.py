"""The pass over a video that finds its shots: every frame is decoded and none kept."""

import bisect
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import av.error

from data_pipelines.decoding.frame_reader import (
    NotSeekableError,
    frames_at,
    frames_in_order,
)
from data_pipelines.decoding.kept_frames import KeptFrames
from data_pipelines.decoding.packets import Timeline
from data_pipelines.decoding.video_status import VideoError
from data_pipelines.decoding.windows import SHORTEST_SHOT

if TYPE_CHECKING:
    from data_pipelines.decoding.shots import ShotDetector

# Behind damage, how many frames are asked for at once, and after how many damaged
# places the rest is left.
_AT_ONCE, _MOST_DAMAGED = 1 << 14, 100


def look_at_all(
    shots: "ShotDetector",
    path: Path,
    timeline: Timeline,
    kept: KeptFrames,
    threads: int,
    progress: Callable[[], None],
) -> None:
    """Shows every frame that can be decoded to a detector.

    A damaged file is read on from its next keyframe, where it has an index. Damage
    counts as a shot, so that it does not cost its neighbours; it is said, and left out,
    when the moments are read.

    Args:
        shots: the detector.
        path: the file.
        timeline: its frames.
        kept: what tells the pixel aspect ratio; keeps nothing here.
        threads: of the decoder.
        progress: called now and then.

    Raises:
        VideoError: the file is too large, or cannot be read at all.
    """
    seen = 0
    frames = frames_in_order(path, kept, timeline.packets, progress, threads)
    try:
        with contextlib.closing(frames):
            for number, frame, _ in frames:
                shots.add(number, frame)
                seen = number + 1
    except VideoError as error:
        if error.status != "corrupt":
            raise
        if not timeline.doubtful:
            _look_behind(shots, path, timeline, kept, seen, progress)


def _look_behind(
    shots: "ShotDetector",
    path: Path,
    timeline: Timeline,
    kept: KeptFrames,
    seen: int,
    progress: Callable[[], None],
) -> None:
    """Shows the frames behind damage, from the first keyframe that was not seen on.

    Args:
        shots: the detector.
        path: the file.
        timeline: its frames.
        kept: what tells the pixel aspect ratio.
        seen: the number of the first frame that was not seen.
        progress: called now and then.
    """
    times = timeline.times
    for _ in range(_MOST_DAMAGED):
        begin = _next_keyframe(timeline, seen)
        if begin == len(times):
            return
        # A short one would be joined with the shot behind it.
        if (times[begin] - times[seen]) * timeline.tick >= SHORTEST_SHOT:
            shots.cut_at(seen)
        shots.cut_at(begin)
        seen = begin
        try:
            while seen < len(times):
                wanted = range(seen, min(seen + _AT_ONCE, len(times)))
                frames = frames_at(path, timeline, wanted, kept, progress=progress)
                with contextlib.closing(frames):
                    for number, frame, _ in frames:
                        shots.add(number, frame)
                        seen = number + 1
                seen = wanted.stop
        except (NotSeekableError, av.error.FFmpegError):
            # Not the same keyframe again.
            seen = max(seen, begin + 1)


def _next_keyframe(timeline: Timeline, number: int) -> int:
    """The number of the first keyframe from a frame on; that of frames if none."""
    times, keyframes = timeline.times, timeline.keyframes
    if number >= len(times):
        return len(times)
    place = bisect.bisect_left(keyframes, times[number])
    if place == len(keyframes):
        return len(times)
    return bisect.bisect_left(times, keyframes[place])
