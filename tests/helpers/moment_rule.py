"""The rule by which a video is cut into moments, as it is stated."""

from fractions import Fraction


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
