"""Which cases of a test run by default, which with `-m slow`, which by hand."""

import pytest


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


def by_hand(*case):
    """A case of minutes that shows what others show already, in parts."""
    return pytest.param(*case, marks=pytest.mark.campaign)


def slow_except(cases, *quick):
    """The cases, all marked slow but those named."""
    assert all(x in cases for x in quick), quick
    return [x if x in quick else slow(x) for x in cases]


def by_hand_except(cases, *kept):
    """The cases, all left to be run by hand but those named."""
    assert all(x in cases for x in kept), kept
    return [x if x in kept else by_hand(x) for x in cases]
