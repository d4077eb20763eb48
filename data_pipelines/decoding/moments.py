"""The moments of a video, one after another: what a search index is made of.

    for answer in decode_moments(path, 12, 8.0, 224):
        ...  # Moment, Moment, ..., VideoEnd

A video is cut into windows of equal length or at its shots (`windows`), and each moment
gives as many frames as an entire video would. Only the moment at hand is in memory. Of
windows, only what they need is decoded; shots take one pass before, which decodes every
frame and keeps none.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av.error
import numpy as np
from jaxtyping import UInt8

from data_pipelines.decoding.cuts import CUTS, WINDOWS, check_cut
from data_pipelines.decoding.frame_reader import (
    UNSTEADY,
    NotSeekableError,
    Numbered,
    Shown,
    damage,
    decode_all_or_first,
    frames_at,
    frames_in_order,
    keep_uniform,
    no_report,
)
from data_pipelines.decoding.frames import one_error
from data_pipelines.decoding.header_index import read_index
from data_pipelines.decoding.kept_frames import KeptFrames
from data_pipelines.decoding.packets import Timeline, read_timeline, step_of
from data_pipelines.decoding.resizing import CLIP_RESIZING, Resizing
from data_pipelines.decoding.sampling import uniform_indices
from data_pipelines.decoding.shot_pass import look_at_all
from data_pipelines.decoding.video_status import (
    OF_THE_MOMENT,
    VideoError,
    check_file,
    described,
)
from data_pipelines.decoding.windows import duration, shot_edges

# A file with more damaged moments than this is given up.
_MOST_DAMAGED = 100
_FAILURES = (NotSeekableError, av.error.FFmpegError)


class Moment(NamedTuple):
    """One window or shot of a video.

    Attributes:
        start: when its first frame is displayed, seconds after the video's first.
        end: when the next moment starts; of the last one, when the video ends.
        frames: its uniform frames, RGB, made square.
    """

    start: float
    end: float
    frames: UInt8[np.ndarray, "F S S 3"]


class VideoEnd(NamedTuple):
    """What became of an entire file; comes after its moments.

    Attributes:
        status: empty if all of it was read, else one of `video_status.STATUSES`.
        message: what is wrong, one line.
        notes: harmless statuses.
        duration: seconds, as far as the file can be read; 0 if it cannot.
        width: of its first sampled frame as displayed, before resizing; 0 if unknown.
        height: likewise.
        moments: how many came before.
    """

    status: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()
    duration: float = 0.0
    width: int = 0
    height: int = 0
    moments: int = 0


def check_seconds(seconds: float) -> None:
    """Checks the length of moments.

    Raises:
        ValueError: it is not a positive number.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"moments of {seconds} seconds: not a positive number")


def decode_moments(
    path: str | Path,
    count: int,
    seconds: float,
    image_size: int,
    ignore_pixel_aspect: bool = False,
    *,
    cut: str = WINDOWS,
    resizing: Resizing = CLIP_RESIZING,
    max_bytes: int | None = None,
    threads: int = 1,
    progress: Callable[[], None] = no_report,
) -> Iterator[Moment | VideoEnd]:
    """Decodes a file moment by moment.

    A video, or a shot, of up to 1.5 times `seconds` is one moment; of such a video the
    frames are those of `decode_uniform`. A damaged or truncated file gives the moments
    that can be read.

    Args:
        path: the file.
        count: F, frames of a moment. One with fewer repeats its last.
        seconds: about how long a moment is.
        image_size: S, height and width, pixels.
        ignore_pixel_aspect: whether non-square pixels count as square.
        cut: where moments begin, a name of `cuts.CUTS`.
        resizing: how frames are made square.
        max_bytes: a larger file is not opened.
        threads: of the decoder.
        progress: called now and then while no moment is ready.

    Returns:
        Moments in their order, then one `VideoEnd`; no error of the file is raised.

    Raises:
        ValueError: `seconds` is not a positive number.
        UserError: videos cannot be cut so.
    """
    check_seconds(seconds)
    check_cut(cut)
    path = Path(path)
    kept = KeptFrames(path, image_size, ignore_pixel_aspect, resizing)
    return _Reader(path, count, seconds, cut, kept, max_bytes, threads, progress).read()


class _Reader:
    """One reading of one file."""

    def __init__(
        self,
        path: Path,
        count: int,
        seconds: float,
        cut: str,
        kept: KeptFrames,
        max_bytes: int | None,
        threads: int,
        progress: Callable[[], None],
    ):
        self._path, self._count, self._seconds = path, count, seconds
        load = CUTS[cut]
        self._shots = load and load()()
        self._kept, self._max_bytes = kept, max_bytes
        self._threads, self._progress = threads, progress
        self._moments, self._duration = 0, 0.0
        # The first thing that is wrong with the file.
        self._wrong: BaseException | None = None

    def read(self) -> Iterator[Moment | VideoEnd]:
        status, message = "", ""
        try:
            check_file(self._path, self._max_bytes)
            with one_error(self._path):
                for moment in self._read():
                    self._moments += 1
                    yield moment
                if self._wrong is not None:
                    raise self._wrong
        # A damaged file can make a decoder fail in any way.
        except Exception as error:
            status, message = described(self._path, error)
            if self._wrong is not None and status not in OF_THE_MOMENT:
                status, message = described(self._path, self._wrong)
        notes, (width, height) = self._kept.notes(), self._kept.displayed
        found = (notes, self._duration, width, height, self._moments)
        yield VideoEnd(status, message, *found)

    def _read(self) -> Iterator[Moment]:
        # In a long film, the packets are read for a hundredth of the time.
        listed = None if self._shots else read_index(self._path)
        if listed is not None and _ends_evenly(listed):
            edges = self._cut(listed)
            if len(edges) == 2 and self._keep_uniform(listed):
                yield self._moment(listed, edges, 0)
                return
            self._kept.begin()
        timeline = read_timeline(self._path, partial=True)
        self._wrong = timeline.cut
        if self._shots:
            look_at_all(
                *(self._shots, self._path, timeline, self._kept),
                *(self._threads, self._progress),
            )
        if not timeline.doubtful:
            edges = self._cut(timeline)
            if len(edges) > 2:
                try:
                    yield from self._by_seeking(timeline, edges)
                    return
                except NotSeekableError:
                    self._kept.begin()
            elif self._keep_uniform(timeline):
                yield self._moment(timeline, edges, 0)
                return
        yield from self._by_decoding_all(timeline)

    def _keep_uniform(self, timeline: Timeline) -> bool:
        """Keeps the frames of the only moment; False if only a full decode tells."""
        total = keep_uniform(
            self._path, timeline, self._kept, self._count, self._threads
        )
        return total is not None

    def _cut(self, timeline: Timeline) -> list[int]:
        self._duration = float(duration(timeline))
        cuts = self._shots.cuts() if self._shots else ()
        return shot_edges(timeline, cuts, self._seconds)

    def _by_seeking(self, timeline: Timeline, edges: Sequence[int]) -> Iterator[Moment]:
        """The moments, each by decoding as little as possible.

        Where that fails, the file may be damaged or just not seekable. So the rest is
        read once without seeking; where that fails as well, a moment is left out.

        Raises:
            NotSeekableError: there are other frames than the packets state, and no
                moment was read.
        """
        place, last, damaged = 0, len(edges) - 1, 0
        seeking, read_through = True, False
        while True:
            frames = frames_at(
                self._path,
                timeline,
                [x for i in range(place, last) for x in self._wanted(edges, i)],
                self._kept,
                seeking=seeking,
                # Once there is damage, each frame's own error is wanted.
                threads=1 if read_through else self._threads,
                progress=self._progress,
            )
            try:
                with contextlib.closing(frames):
                    while place < last:
                        self._keep(frames, self._wanted(edges, place))
                        yield self._moment(timeline, edges, place)
                        place += 1
                    # Perhaps to the end of the file, to see that it is there.
                    self._keep(frames, None)
                return
            except _FAILURES as error:
                self._kept.drop()
                if not read_through:
                    seeking, read_through = False, True
                    continue
                if not self._moments and isinstance(error, NotSeekableError):
                    raise
                self._wrong = self._wrong or self._as_damage(error)
                place, damaged, seeking = place + 1, damaged + 1, True
                if place >= last or damaged > _MOST_DAMAGED:
                    return

    def _by_decoding_all(self, timeline: Timeline) -> Iterator[Moment]:
        """The moments of a file whose frames only decoding all of it tells."""
        listed: list[Shown] = []
        complete = False
        try:
            decode_all_or_first(
                self._path,
                timeline,
                self._kept,
                self._count,
                listed=listed,
                progress=self._progress,
            )
            complete = True
        except VideoError as error:
            if error.status != "corrupt" or not listed:
                raise
            self._wrong = self._wrong or error
        timeline = _timeline_of(listed, timeline)
        edges = self._cut(timeline)
        if complete and len(edges) == 2:
            yield self._moment(timeline, edges, 0)
            return
        self._kept.begin()
        wanted = {x for i in range(len(edges) - 1) for x in self._wanted(edges, i)}
        every = frames_in_order(
            self._path, self._kept, timeline.packets, self._progress
        )
        with contextlib.closing(every):
            frames = (frame for frame in every if frame[0] in wanted)
            for place in range(len(edges) - 1):
                try:
                    self._keep(frames, self._wanted(edges, place))
                except NotSeekableError:
                    raise VideoError("corrupt", f"{self._path} {UNSTEADY}") from None
                yield self._moment(timeline, edges, place)

    def _wanted(self, edges: Sequence[int], place: int) -> list[int]:
        """The numbers of the frames of a moment."""
        begin, end = edges[place : place + 2]
        return [begin + x for x in uniform_indices(end - begin, self._count)]

    def _keep(self, frames: Iterator[Numbered], wanted: Sequence[int] | None) -> None:
        """Keeps frames until these are there; None takes them to their end.

        Raises:
            NotSeekableError: they do not come.
        """
        while wanted is None or not all(map(self._kept.holds, wanted)):
            frame = next(frames, None)
            if frame is None and wanted is None:
                return
            if frame is None:
                raise NotSeekableError
            self._kept.keep(*frame)

    def _moment(self, timeline: Timeline, edges: Sequence[int], place: int) -> Moment:
        first, tick = timeline.times[0], timeline.tick
        start = float((timeline.times[edges[place]] - first) * tick)
        end = self._duration
        if place + 2 < len(edges):
            end = float((timeline.times[edges[place + 1]] - first) * tick)
        frames = self._kept.take(self._wanted(edges, place))
        return Moment(start, end, np.stack(list(frames)))

    def _as_damage(self, error: BaseException) -> VideoError:
        if isinstance(error, av.error.FFmpegError):
            return damage(self._path, error)
        message = f"{self._path} does not have the frames that it states"
        return VideoError("corrupt", message)


def _ends_evenly(timeline: Timeline) -> bool:
    """Whether the last frame is displayed for as long as the one before.

    Headers are inexact about durations, but not twice in the same way.
    """
    times = timeline.times
    return len(times) > 1 and timeline.step == times[-1] - times[-2]


def _timeline_of(listed: Sequence[Shown], stated: Timeline) -> Timeline:
    """The timeline of frames that have all been decoded."""
    times = [time for time, _ in listed if time is not None]
    if len(set(times)) < len(listed):
        # Without times of their own, frames come at the rate that the file states.
        tick = 1 / stated.rate if stated.rate else stated.tick
        numbers = list(range(len(listed)))
        return Timeline(numbers, [], False, False, stated.packets, tick, 1)
    times.sort()
    last = max(listed, key=lambda shown: shown[0] or 0)[1]
    step = step_of(times, last, stated.tick, stated.rate)
    return Timeline(times, [], False, False, stated.packets, stated.tick, step)
