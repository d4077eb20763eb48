"""Where the moments of a video begin, in numbers of frames: equal windows, or shots."""

import bisect
import dataclasses
import itertools
from collections.abc import Iterable
from fractions import Fraction

from data_pipelines.decoding.packets import Timeline
from data_pipelines.decoding.sampling import interval_edges

# A video up to so many times as long as a moment is one.
_LONGEST = Fraction(3, 2)
# Seconds. A shot that is shorter, or shorter than half a moment, is joined with the
# next: a few frames are no moment to look for.
SHORTEST_SHOT = Fraction(1)


def window_edges(timeline: Timeline, seconds: float) -> list[int]:
    """Cuts a video into equal windows of about `seconds`.

    A window begins with the frame that is on display at its edge. One during which no
    frame begins is joined with the one before.

    Args:
        timeline: the frames; at least one, their times distinct and ascending.
        seconds: length of a window. A video of up to 1.5 times that is one window.

    Returns:
        The numbers of the frames that windows begin with, ascending, then the number of
        frames.
    """
    times, total = timeline.times, len(timeline.times)
    length = duration(timeline) / Fraction(seconds)
    if length <= _LONGEST:
        return [0, total]
    count = round(length)
    if count <= total and _is_steady(timeline):
        return interval_edges(total, count)
    first, span = times[0], times[-1] - times[0] + timeline.step
    edges, edge = [], 0
    while edge < count:
        place = bisect.bisect_right(times, first + edge * span // count) - 1
        edges.append(place)
        if place + 1 == total:
            break
        # The first edge at which a later frame is on display.
        later = -((first - times[place + 1]) * count // span)
        edge = max(edge + 1, later)
    return [*edges, total]


def shot_edges(timeline: Timeline, cuts: Iterable[int], seconds: float) -> list[int]:
    """Cuts a video where its shots begin, and long shots into equal windows.

    A shot of up to 1.5 times `seconds` is one moment; a longer one is cut as
    `window_edges` cuts a video. Without cuts, the result is that of `window_edges`.

    Args:
        timeline: the frames; at least one, their times distinct and ascending.
        cuts: the numbers of the frames that shots begin with, ascending. A shot that
            is too short is joined with the next, the last one with the one before.
        seconds: length of a window.

    Returns:
        The numbers of the frames that moments begin with, ascending, then the number of
        frames.
    """
    times, total = timeline.times, len(timeline.times)
    times = [*times, times[-1] + timeline.step]
    shortest = min(SHORTEST_SHOT, Fraction(seconds) / 2)

    def is_long(begin: int, end: int) -> bool:
        return (times[end] - times[begin]) * timeline.tick >= shortest

    begins = [0]
    for cut in cuts:
        if cut < total and is_long(begins[-1], cut):
            begins.append(cut)
    if len(begins) > 1 and not is_long(begins[-1], total):
        begins.pop()
    edges = []
    for begin, end in itertools.pairwise([*begins, total]):
        step = times[end] - times[end - 1]
        shot = dataclasses.replace(timeline, times=times[begin:end], step=step)
        edges += [begin + edge for edge in window_edges(shot, seconds)[:-1]]
    return [*edges, total]


def duration(timeline: Timeline) -> Fraction:
    """Seconds from the beginning of the first frame to the end of the last."""
    times = timeline.times
    return (times[-1] - times[0] + timeline.step) * timeline.tick


def _is_steady(timeline: Timeline) -> bool:
    """Whether frames are evenly spaced, but for the rounding of their times."""
    times, total = timeline.times, len(timeline.times)
    span = times[-1] - times[0] + timeline.step
    return all(
        abs((time - times[0]) * total - place * span) <= total
        for place, time in enumerate(times)
    )
