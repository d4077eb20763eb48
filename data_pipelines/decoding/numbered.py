"""Frames of a file by their numbers, for callers that choose them by count and length.

`frames.decode_uniform` chooses them itself, and so can decode fewer.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av.error
import numpy as np

from data_pipelines.decoding.frame_reader import (
    NotSeekableError,
    Numbered,
    frames_at,
    frames_in_order,
)
from data_pipelines.decoding.frames import one_error
from data_pipelines.decoding.header_index import read_index
from data_pipelines.decoding.kept_frames import KeptFrames
from data_pipelines.decoding.packets import Timeline, read_timeline
from data_pipelines.decoding.resizing import CLIP_RESIZING, Resizing
from data_pipelines.decoding.video_status import VideoError


class NumberedFrames:
    """A video file whose frames are decoded by their numbers.

    Args:
        path: the file.
        image_size: height and width, pixels; None keeps the displayed size.
        resizing: how frames are made square.

    Attributes:
        total: the number of frames.
        seconds: when the last frame ends; None if the file does not tell.

    Raises:
        VideoError: the file is missing, unreadable, damaged or holds no video.
    """

    def __init__(
        self,
        path: str | Path,
        image_size: int | None = None,
        resizing: Resizing = CLIP_RESIZING,
    ):
        self._path = Path(path)
        self._kept = KeptFrames(self._path, image_size, False, resizing)
        with one_error(self._path):
            self._timeline = read_index(self._path) or read_timeline(self._path)
            if self._only_decoding_tells:
                times = [frame.pts for _, frame, _ in self._in_order()]
                ends = [x for x in times if x is not None]
            else:
                times = ends = self._timeline.times
        if not times:
            raise VideoError("no_video", f"{path} holds no frame")
        self.total = len(times)
        self.seconds = _end(self._timeline, ends)

    @property
    def _only_decoding_tells(self) -> bool:
        return self._timeline.doubtful or self._timeline.ends_unknown

    def _in_order(self) -> Iterator[Numbered]:
        return frames_in_order(self._path, self._kept, None)

    def take(self, indices: Sequence[int]) -> np.ndarray | list[np.ndarray]:
        """Decodes frames, each once however often it is named.

        Args:
            indices: from 0 to `total` - 1, in any order.

        Returns:
            `uint8 [F, H, W, 3]`, RGB, as a player shows them; a list if frames of
            different sizes are not resized.

        Raises:
            VideoError: the file is damaged, or lacks frames that it lists.
        """
        wanted = sorted(set(indices))
        self._kept.begin()
        with one_error(self._path):
            if self._only_decoding_tells or not self._sought(wanted):
                self._kept.begin()
                named = set(wanted)
                for found in self._in_order():
                    if found[0] in named:
                        self._kept.keep(*found)
        if not all(map(self._kept.holds, wanted)):
            message = f"{self._path} lacks some of the {self.total:,} frames it lists"
            raise VideoError("corrupt", message)
        return self._kept.take(indices)

    def _sought(self, wanted: Sequence[int]) -> bool:
        """Decodes by seeking; False if the file cannot be read so."""
        try:
            for found in frames_at(self._path, self._timeline, wanted, self._kept):
                self._kept.keep(*found)
        except (NotSeekableError, av.error.FFmpegError):
            return False
        return True


def _end(timeline: Timeline, times: Sequence[int]) -> float | None:
    """When the last frame ends, in seconds from the file's zero."""
    step: Fraction | int = timeline.step
    if not step and timeline.rate and timeline.tick:
        step = 1 / (timeline.rate * timeline.tick)
    if not times or not step:
        return None
    return float((max(times) + step) * timeline.tick)
