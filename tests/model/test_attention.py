"""Attention and activations against plain ones, forward and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vop_jax.model.clip.attention import attend
from vop_jax.model.clip.layers import ACTIVATIONS

B, G, R, S, H, D, P = 2, 3, 4, 5, 2, 6, 3
PROMPTS = {"shared": (P, H, D), "per group": (G, P, H, D), "own": (B, G, P, H, D)}


def naive(query, keys, values, mask):
    """One row at a time over all of its keys."""
    keys, values = (
        jnp.concatenate(
            [jnp.broadcast_to(x, (B, G, *x.shape[-3:])) for x in parts], axis=2
        )
        for parts in (keys, values)
    )
    scores = jnp.einsum("bgrhd,bgshd->bghrs", query, keys)
    if mask is not None:
        seen = jnp.broadcast_to(mask, (*scores.shape[:-1], S))
        rest = jnp.ones((*scores.shape[:-1], keys.shape[2] - S), bool)
        scores = jnp.where(jnp.concatenate([seen, rest], -1), scores, -jnp.inf)
    return jnp.einsum("bghrs,bgshd->bgrhd", jax.nn.softmax(scores), values)


def inputs(kinds):
    rng = np.random.default_rng(0)
    shapes = [(B, G, S, H, D)] + [PROMPTS[kind] for kind in kinds]
    query = jnp.asarray(rng.standard_normal((B, G, R, H, D), np.float32))
    keys, values = (
        [jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]
        for _ in range(2)
    )
    return query, keys, values


MASKS = {
    "all": None,
    "of rows": jnp.arange(R)[:, None] >= jnp.arange(S),
    "of sequences": (jnp.arange(S) < jnp.array([[2], [5]]))[:, None, None, None],
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    "kinds", [(), ("shared",), ("per group",), ("own",), tuple(PROMPTS)], ids=str
)
def test_attention_and_its_gradients(kinds, mask):
    arguments, seen = inputs(kinds), MASKS[mask]

    def loss(function):
        return lambda *a: jnp.sin(function(*a, seen)).sum()

    np.testing.assert_allclose(
        attend(*arguments, seen), naive(*arguments, seen), atol=1e-6
    )
    got, want = (jax.grad(loss(f), (0, 1, 2))(*arguments) for f in (attend, naive))
    for ours, plain in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=2e-6)


def test_large_scores_stay_finite():
    query, keys, values = inputs(("shared",))
    gradient = jax.grad(lambda q: attend(q * 1e4, keys, values).sum())(query)
    assert np.isfinite(gradient).all()


def kept(function, *arguments):
    """Shapes of what the way back is given."""
    _, back = jax.vjp(function, *arguments)
    return [x.shape for x in jax.tree.leaves(back)]


def test_attention_keeps_no_weights():
    query, keys, values = inputs(("shared",))
    weights = (B, G, H, R, S + P)
    assert weights not in kept(lambda *a: attend(*a, None), query, keys, values)
    shapes = kept(lambda *a: naive(*a, None), query, keys, values)
    assert weights in shapes


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_keeps_its_slope_alone(name):
    plain = {
        "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
        "silu": lambda x: x * jax.nn.sigmoid(x),
    }[name]
    x = jnp.linspace(-20, 20, 201)
    np.testing.assert_array_equal(ACTIVATIONS[name](x), plain(x))
    slopes = [jax.vmap(jax.grad(f))(x) for f in (ACTIVATIONS[name], plain)]
    # Where tanh is near -1, its rounding is multiplied by x and by an inner slope.
    np.testing.assert_allclose(*slopes, atol=3e-6)
    assert kept(ACTIVATIONS[name], x) == [x.shape]
    assert len(kept(plain, x)) > 1


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_has_a_slope_in_bfloat16(name):
    """As in training on TPUs and GPUs, where results are bfloat16."""
    slope = jax.vmap(jax.grad(ACTIVATIONS[name]))
    x = jnp.linspace(-20, 20, 201).astype(jnp.bfloat16)
    ours, right = slope(x), slope(x.astype(jnp.float32))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(np.float32), right, atol=0.02)
