"""What bounds the time of other tests."""

import gc
import time

import pytest
from own_time import at_most


def busy(seconds):
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass


def test_what_takes_longer_fails():
    with pytest.raises(AssertionError), at_most(0.05):
        busy(0.1)
    with at_most(2) as taken:
        busy(0.1)
    assert 0.1 <= taken.seconds < 2


def test_what_others_left_is_not_looked_at():
    with at_most(1):
        assert gc.get_freeze_count() > 1_000
    assert not gc.get_freeze_count()
    with pytest.raises(KeyError), at_most(1):
        raise KeyError
    assert not gc.get_freeze_count()
