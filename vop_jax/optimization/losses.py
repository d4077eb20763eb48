"""The training loss: symmetric cross-entropy over the global batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class _Members(NamedTuple):
    """Which pairs some rows of the batch are.

    Attributes:
        identity: `[n, K]`; rows that are equal in a column are not negatives of each
            other.
        place: `[n]`, the rows' indices in the global batch.
    """

    identity: Int[Array, "n K"]
    place: Int[Array, "n"]


def contrastive_loss(
    video: Float[Array, "b E"],
    text: Float[Array, "b E"],
    logit_scale: Float[Array, ""],
    identity: Int[Array, "b K"] | None = None,
    *,
    axes: tuple[str, ...] = (),
    chunk: int = 0,
) -> Float[Array, ""]:
    """Symmetric cross-entropy of exp(logit_scale) * s over the global batch.

    Args:
        video: embeddings of the batch's videos.
        text: embeddings of their captions, in the same order.
        logit_scale: logarithm of the factor on the similarities.
        identity: K ids of each row, such as its video's. Another row with the same id
            in the same column is excluded from the denominator in both directions: the
            second caption of a video is not a negative of the first. None, the
            published recipe, takes every other row as a negative.
        axes: mesh axes that the batch is sharded over, when called inside `shard_map`
            with this device's b of B rows. All features are then gathered once, and
            each device computes the logits of its own rows only.
        chunk: number of candidates per chunk, a divisor of B, so that only
            `[b, chunk]` logits exist at once; 0 takes all B candidates in one chunk.

    Returns:
        The loss; with a sharded batch this device's term of it. The loss and its
        gradient are then the sums over all devices.
    """
    # Each device's b rows against the B candidates of the global batch.
    rows = jnp.concatenate([text, video], axis=-1)
    everyone = jax.lax.all_gather(rows, axes, tiled=True) if axes else rows
    texts, videos = jnp.split(everyone, 2, axis=-1)
    scale = jnp.exp(logit_scale)
    # The logits of the positives, and the log of the softmax denominators.
    right = scale * jnp.sum(text * video, axis=-1)
    own, others = _members(identity, axes)
    to_videos = _log_sum(scale * text, videos, chunk, own, others)
    to_texts = _log_sum(scale * video, texts, chunk, own, others)
    return jnp.sum(to_videos + to_texts - 2 * right) / (2 * len(everyone))


def _members(
    identity: Int[Array, "b K"] | None, axes: tuple[str, ...]
) -> tuple[_Members | None, _Members | None]:
    """This device's rows and those of the global batch; None if nothing is masked."""
    if identity is None:
        return None, None
    everyone = jax.lax.all_gather(identity, axes, tiled=True) if axes else identity
    place = jnp.arange(len(everyone))
    first = jax.lax.axis_index(axes) * len(identity) if axes else 0
    own = jax.lax.dynamic_slice_in_dim(place, first, len(identity))
    return _Members(identity, own), _Members(everyone, place)


def _left_out(own: _Members, others: _Members) -> Bool[Array, "n m"]:
    """Which candidates are neither negatives of a row nor its positive."""
    equal = own.identity[:, None] == others.identity[None]
    return equal.any(-1) & (own.place[:, None] != others.place[None])


def _log_sum(
    rows: Float[Array, "b E"],
    candidates: Float[Array, "B E"],
    chunk: int,
    own: _Members | None,
    others: _Members | None,
) -> Float[Array, "b"]:
    """The log-sum-exp of each row's logits, over all candidates that count."""

    def of(part: tuple[Array, _Members | None]) -> Array:
        some, members = part
        # A TPU multiplies in bfloat16 by default; at a scale of 100 the error matters.
        logits = jnp.matmul(rows, some.T, precision=jax.lax.Precision.HIGHEST)
        if own is not None and members is not None:
            # A row may lose all of a chunk; logsumexp and its gradient allow for that.
            logits = jnp.where(_left_out(own, members), -jnp.inf, logits)
        return jax.nn.logsumexp(logits, axis=-1)

    if not chunk or chunk >= len(candidates):
        return of((candidates, others))
    # Each chunk's logits are recomputed in the backward pass; saving them would keep
    # the logits of all candidates at once.
    parts = jax.lax.map(
        jax.checkpoint(of),
        jax.tree.map(
            lambda x: x.reshape(-1, chunk, *x.shape[1:]), (candidates, others)
        ),
    )
    return jax.nn.logsumexp(parts, axis=0)
