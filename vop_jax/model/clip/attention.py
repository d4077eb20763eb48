"""Softmax attention over tokens and prompts, with its own backward pass.

Heads come before rows in every product, the one axis order that all of them share: XLA
then compiles the complete forward pass into one kernel on a CPU. The backward pass
recomputes the attention weights from queries and keys, so they are never saved.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# `dot_general` dimension numbers: contract the last axis of both operands, or the last
# with the second to last; batch axes are video, group and head.
_BATCH = ((0, 1, 2), (0, 1, 2))
_LAST = (((4,), (4,)), _BATCH)
_ROWS = (((4,), (3,)), _BATCH)


def joined(
    parts: Sequence[Array], batch: int, groups: int
) -> Float[Array, "B G H S d"]:
    """Concatenates tokens and prompts to one sequence of keys (or values), heads first.

    Args:
        parts: `[B, G, S, H, d]` of the tokens, then prompts as `[P, H, d]`,
            `[G, P, H, d]` or `[B, G, P, H, d]`.
        batch: B.
        groups: G.
    """
    first = [jnp.moveaxis(x, -2, -3) for x in parts]
    whole = [jnp.broadcast_to(x, (batch, groups, *x.shape[-3:])) for x in first]
    return jnp.concatenate(whole, axis=3)


def as_one_group(parts: Sequence[Array], batch: int, groups: int) -> list[Array]:
    """The keys (or values) of all groups as those of one.

    Args:
        parts: as of `joined`.
        batch: B.
        groups: G.

    Returns:
        Each part as `[B, 1, G * n, H, d]`; what groups share is repeated.
    """
    whole = [jnp.broadcast_to(x, (batch, groups, *x.shape[-3:])) for x in parts]
    return [x.reshape(batch, 1, -1, *x.shape[-2:]) for x in whole]


def _product(left: Array, right: Array, dimensions: tuple) -> Array:
    """A matrix product in the dtype of `right`, accumulated in float32."""
    return jax.lax.dot_general(
        left.astype(right.dtype),
        right,
        dimensions,
        preferred_element_type=jnp.float32,
    )


def _unnormalised(
    query: Array, key: Array, mask: Array | None, bias: Array | None
) -> Array:
    scores = _product(query, key, _LAST)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return jnp.exp(scores - scores.max(-1, keepdims=True))


@jax.custom_vjp
def _mix(
    query: Float[Array, "B G H R d"],
    key: Float[Array, "B G H S d"],
    value: Float[Array, "B G H S d"],
    mask: Bool[Array, "#B #G #H #R S"] | None,
    bias: Float[Array, "B G 1 1 S"] | None = None,
) -> Float[Array, "B G H R d"]:
    weights = _unnormalised(query, key, mask, bias)
    total = weights.sum(-1, keepdims=True)
    return (_product(weights, value, _ROWS) / total).astype(query.dtype)


def _mix_forward(query, key, value, mask, bias=None):
    return _mix(query, key, value, mask, bias), (query, key, value, mask, bias)


def _mix_backward(kept, gradient):
    query, key, value, mask, bias = kept
    weights = _unnormalised(query, key, mask, bias)
    weights = weights / weights.sum(-1, keepdims=True)
    of_weights = _product(gradient, value, _LAST)
    of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdims=True))
    return (
        _product(of_scores, key, _ROWS).astype(query.dtype),
        _product(of_scores.swapaxes(3, 4), query, _ROWS).astype(key.dtype),
        _product(weights.swapaxes(3, 4), gradient, _ROWS).astype(value.dtype),
        None,
        # It says how many tokens a key stands for, which no parameter moves.
        None,
    )


_mix.defvjp(_mix_forward, _mix_backward)


def attend(
    query: Float[Array, "B G R H d"],
    keys: Sequence[Array],
    values: Sequence[Array],
    mask: Bool[Array, "#B #G #H #R S"] | None = None,
    bias: Float[Array, "B G S"] | None = None,
) -> Float[Array, "B G R H d"]:
    """Attention with one softmax over the tokens of a group and all prompts.

    Scores, softmax and accumulation are float32 for every dtype.

    Args:
        query: already scaled by 1/sqrt(d).
        keys: the tokens' keys `[B, G, S, H, d]` first, then the prompts' as
            `[P, H, d]`, `[G, P, H, d]` or `[B, G, P, H, d]`.
        values: of the same shapes.
        mask: which tokens a row may attend to; None means all. Prompts are never
            masked.
        bias: added to the scores of each token, without a gradient; None adds nothing.
            Prompts have none.
    """
    batch, groups = query.shape[:2]
    key, value = joined(keys, batch, groups), joined(values, batch, groups)
    if bias is not None:
        prompts = key.shape[3] - bias.shape[-1]
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, prompts)))[:, :, None, None]
    if mask is not None:
        prompts = key.shape[3] - mask.shape[-1]
        widths = [(0, 0)] * (mask.ndim - 1) + [(0, prompts)]
        mask = jnp.pad(mask, widths, constant_values=True)
    return jnp.moveaxis(_mix(jnp.moveaxis(query, 3, 2), key, value, mask, bias), 2, 3)


def attend_across(
    query: Float[Array, "B G 1 H d"],
    keys: Sequence[Array],
    values: Sequence[Array],
    mask: Bool[Array, "#B #G S"] | None = None,
) -> Float[Array, "B G 1 H d"]:
    """Attention of one row of each group over the tokens and prompts of all groups.

    A prompt is a key of its group; one that all groups share is a key of each of them.

    Args:
        query: already scaled by 1/sqrt(d).
        keys: as of `attend`.
        values: of the same shapes.
        mask: which tokens of each group are attended to; None means all.
    """
    batch, groups, _, heads, width = query.shape
    key, value = (
        jnp.moveaxis(joined(parts, batch, groups), 1, 2).reshape(
            batch, 1, heads, -1, width
        )
        for parts in (keys, values)
    )
    if mask is not None:
        prompts = key.shape[3] // groups - mask.shape[-1]
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, prompts)), constant_values=True)
        mask = jnp.broadcast_to(mask, (len(mask), groups, mask.shape[-1]))
        mask = mask.reshape(len(mask), 1, 1, 1, -1)
    rows = query[:, :, 0].swapaxes(1, 2)[:, None]
    return _mix(rows, key, value, mask)[:, 0].swapaxes(1, 2)[:, :, None]
