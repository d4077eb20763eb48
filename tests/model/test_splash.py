"""The attention kernel, run step by step on a CPU, against XLA's attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vop_jax.model.clip import splash_attention as splash
from vop_jax.model.clip.attention import attend


def draw(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(0, 1, shape), "float32")


@pytest.mark.parametrize("rows", [130])
def test_kernel_and_xla_agree(rows):
    query = draw(2, 1, rows, 1, 8)
    keys = [draw(2, 1, rows, 1, 8), draw(3, 1, 8)]
    values = [draw(2, 1, rows, 1, 8) + 1, draw(3, 1, 8) - 1]

    def loss(function):
        def run(inputs):
            return (function(*inputs) ** 2).sum()

        return jax.jit(jax.value_and_grad(run))((query, keys, values))

    want = loss(attend)
    got = loss(lambda q, k, v: splash.splash_attend(q, k, v, interpret=True))
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)


def test_only_long_rows_that_see_everything_pay():
    long = jax.ShapeDtypeStruct((2, 1, 600, 12, 64), jnp.float32)
    assert splash.pays(long, None)
    assert not splash.pays(long, jnp.ones((600, 600), bool))
    frames = jax.ShapeDtypeStruct((2, 12, 50, 12, 64), jnp.float32)
    assert not splash.pays(frames, None)


@pytest.mark.parametrize(
    ("length", "block", "padded"),
    [(600, 640, 640), (608, 640, 640), (3084, 640, 3200), (1024, 1024, 1024)],
)
def test_blocks_pad_little(length, block, padded):
    assert splash._blocks(length) == (block, padded)
