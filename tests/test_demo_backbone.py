"""The shipped backbone knows what is where, and nothing of order."""

import pytest

from vop_jax.demo import BACKBONE
from vop_jax.demo.pretrain import BARS, measure


@pytest.fixture(scope="module")
def accuracy():
    return measure(BACKBONE)


@pytest.mark.parametrize("what", BARS)
def test_zero_shot_accuracy_on_new_stills(accuracy, what):
    assert accuracy[what] >= BARS[what]
