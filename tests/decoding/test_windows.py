"""Where moments begin, against the rule as it is stated."""

import itertools
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from moment_rule import edges_by_definition, edges_of_shots, shots_by_definition

from data_pipelines.decoding.packets import Timeline
from data_pipelines.decoding.sampling import interval_edges
from data_pipelines.decoding.windows import shot_edges, window_edges


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.integers(0, 20),
    st.integers(1, 300),
)
def test_windows_are_those_of_the_definition(gaps, step, length):
    times = [0, *itertools.accumulate(gaps)]
    timeline = Timeline([7 + x for x in times], [7], False, False, None, Fraction(1, 9))
    timeline = type(timeline)(**{**vars(timeline), "step": step})
    seconds = length / 8
    given = [Fraction(time, 9) for time in [*times, times[-1] + step]]
    edges = window_edges(timeline, seconds)
    total = len(times)
    span = times[-1] + step
    even = all(
        abs(time - i * Fraction(span, total)) <= 1 for i, time in enumerate(times)
    )
    count = round(given[-1] / Fraction(seconds))
    if even and count <= total and given[-1] > 1.5 * seconds:
        assert edges == interval_edges(total, count)
    else:
        assert edges == edges_by_definition(given, seconds)
    assert edges == sorted(set(edges))
    assert (edges[0], edges[-1]) == (0, total)


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.integers(0, 20),
    st.integers(1, 100),
    st.sets(st.integers(1, 45)),
)
def test_shots_are_those_of_the_definition(gaps, step, length, cuts):
    times = [0, *itertools.accumulate(gaps)]
    timeline = Timeline([7 + x for x in times], [7], False, False, None, Fraction(1, 9))
    timeline = type(timeline)(**{**vars(timeline), "step": step})
    seconds = length / 8
    given = [Fraction(time, 9) for time in [*times, times[-1] + step]]
    total = len(times)
    edges = shot_edges(timeline, sorted(cuts), seconds)
    assert edges == sorted(set(edges))
    assert (edges[0], edges[-1]) == (0, total)
    assert shot_edges(timeline, [], seconds) == window_edges(timeline, seconds)
    inside = sorted(cut for cut in cuts if cut < total)
    shots = shots_by_definition(given, inside, seconds)
    assert {*shots} <= {*edges}
    # Evenly spaced frames are cut by number, which may be another frame.
    if not any(_is_even(given[a : b + 1]) for a, b in itertools.pairwise(shots)):
        assert edges == edges_of_shots(given, inside, seconds)


def _is_even(times):
    span, total = times[-1] - times[0], len(times) - 1
    return all(
        abs(x - times[0] - i * span / total) <= Fraction(1, 9)
        for i, x in enumerate(times[:-1])
    )


def test_short_shots_are_joined():
    """At 10 frames a second."""
    timeline = Timeline(list(range(100)), [0], False, False, None, Fraction(1, 10), 1)
    assert shot_edges(timeline, [9, 30, 95], 8.0) == [0, 30, 100]
    assert shot_edges(timeline, [10, 30, 90], 8.0) == [0, 10, 30, 90, 100]
    # A burst of cuts is joined until it lasts a second.
    assert shot_edges(timeline, range(40, 60, 3), 8.0) == [0, 40, 52, 100]
    # Or half a moment.
    assert shot_edges(timeline, [4, 8, 12], 0.75)[:4] == [0, 4, 8, 12]
    # A long one is cut into equal parts.
    assert shot_edges(timeline, [20], 3.0) == [0, 20, 46, 73, 100]
    assert shot_edges(timeline, [20], 6.0) == [0, 20, 100]
    # What is not there.
    assert shot_edges(timeline, [100, 200], 20.0) == [0, 100]
