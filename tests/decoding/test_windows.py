"""Where moments begin, against the rule as it is stated."""

import itertools
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from moment_rule import edges_by_definition

from data_pipelines.decoding.packets import Timeline
from data_pipelines.decoding.sampling import interval_edges
from data_pipelines.decoding.windows import window_edges


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
