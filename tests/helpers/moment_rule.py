"""The rule by which a video is cut into moments, as it is stated."""

import itertools
from fractions import Fraction

import av


def frames_and_times(path):
    """Every frame, and its time in seconds after the first; then the end."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = [frame.pts * frame.time_base for frame in frames]
    times.append(times[-1] + frames[-1].duration * frames[-1].time_base)
    images = [frame.to_ndarray(format="rgb24") for frame in frames]
    return images, [time - times[0] for time in times]


def edges_by_definition(times, seconds):
    """The frame that is on display at each edge of equal windows, every one once."""
    length = times[-1]
    if length <= 1.5 * seconds:
        return [0, len(times) - 1]
    count = round(length / Fraction(seconds))
    on_display = [
        max(i for i, time in enumerate(times[:-1]) if time <= length * edge / count)
        for edge in range(count)
    ]
    return [*sorted(set(on_display)), len(times) - 1]


def shots_by_definition(times, cuts, seconds):
    """Where shots of at least a second, or half a moment, begin; then the end."""
    shortest = min(1, Fraction(seconds) / 2)
    begins = [0]
    for cut in cuts:
        if times[cut] - times[begins[-1]] >= shortest:
            begins.append(cut)
    if len(begins) > 1 and times[-1] - times[begins[-1]] < shortest:
        del begins[-1]
    return [*begins, len(times) - 1]


def edges_of_shots(times, cuts, seconds):
    """The edges of shots, and of equal windows in long ones."""
    edges = []
    for begin, end in itertools.pairwise(shots_by_definition(times, cuts, seconds)):
        shot = [time - times[begin] for time in times[begin : end + 1]]
        edges += [begin + x for x in edges_by_definition(shot, seconds)[:-1]]
    return [*edges, len(times) - 1]
