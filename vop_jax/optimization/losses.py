"""The training losses, over the global batch: softmax (the paper's) and sigmoid.

Softmax is the default for every backbone, also for those that were made with the
sigmoid loss. It is the recipe that VoP's results are printed for, and it needs no bias:
a frozen `logit_bias` suits the batches of many thousands of pairs that it was learned
on, not those of a few dozen that prompts are tuned with.
"""

from collections.abc import Callable
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


def sigmoid_loss(
    video: Float[Array, "b E"],
    text: Float[Array, "b E"],
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""],
    identity: Int[Array, "b K"] | None = None,
    *,
    axes: tuple[str, ...] = (),
    chunk: int = 0,
) -> Float[Array, ""]:
    """Every pair of a batch on its own: does this text belong to this video?

    Zhai et al., 2023 (SigLIP): the sum over all B x B pairs of the logistic loss of
    exp(logit_scale) * s + logit_bias, divided by B.

    Args:
        video: as of `contrastive_loss`, as are all but `logit_bias`.
        text: of the same rows.
        logit_scale: logarithm of the factor on the similarities.
        logit_bias: added to the scaled similarities.
        identity: pairs of equal rows that are not the row's own are left out.
        axes: mesh axes that the batch is sharded over.
        chunk: number of videos per chunk.

    Returns:
        The loss, or this device's term of it, as of `contrastive_loss`.
    """
    # Each device's b texts against the B videos: all pairs once.
    videos = jax.lax.all_gather(video, axes, tiled=True) if axes else video
    scale = jnp.exp(logit_scale)
    right = scale * jnp.sum(text * video, axis=-1) + logit_bias
    own, others = _members(identity, axes)

    def of(part: tuple[Array, _Members | None]) -> Array:
        some, members = part
        pairs = _logits(scale * text, some, own, members) + logit_bias
        return jax.nn.softplus(pairs).sum(axis=-1)

    # softplus(z) of every pair as if it were wrong; a right one costs softplus(-z).
    wrong = _over_chunks(of, videos, others, chunk).sum(axis=0)
    return jnp.sum(wrong - right) / len(videos)


class Loss(NamedTuple):
    """A loss, and the backbone's parameters that it takes after the embeddings.

    Attributes:
        function: (videos, texts, parameters..., identity, axes=, chunk=) -> the loss.
        parameters: names within `params`; frozen in most methods.
    """

    function: Callable[..., Array]
    parameters: tuple[str, ...]


# The values of `config.loss`.
_SOFTMAX = Loss(contrastive_loss, ("logit_scale",))
LOSSES = {
    "auto": _SOFTMAX,
    "softmax": _SOFTMAX,
    "sigmoid": Loss(sigmoid_loss, ("logit_scale", "logit_bias")),
}


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


def _logits(
    rows: Float[Array, "b E"],
    candidates: Float[Array, "m E"],
    own: _Members | None,
    members: _Members | None,
) -> Float[Array, "b m"]:
    """The products of rows and candidates; -inf for those that are left out."""
    # A TPU multiplies in bfloat16 by default; at a scale of 100 the error matters.
    logits = jnp.matmul(rows, candidates.T, precision=jax.lax.Precision.HIGHEST)
    if own is None or members is None:
        return logits
    return jnp.where(_left_out(own, members), -jnp.inf, logits)


def _over_chunks(
    function: Callable[[tuple[Array, _Members | None]], Array],
    candidates: Float[Array, "B E"],
    others: _Members | None,
    chunk: int,
) -> Float[Array, "C b"]:
    """What a function says of each of C chunks of the candidates."""
    if not chunk or chunk >= len(candidates):
        return function((candidates, others))[None]
    # Each chunk's logits are recomputed in the backward pass; saving them would keep
    # the logits of all candidates at once.
    return jax.lax.map(
        jax.checkpoint(function),
        jax.tree.map(
            lambda x: x.reshape(-1, chunk, *x.shape[1:]), (candidates, others)
        ),
    )


def _log_sum(
    rows: Float[Array, "b E"],
    candidates: Float[Array, "B E"],
    chunk: int,
    own: _Members | None,
    others: _Members | None,
) -> Float[Array, "b"]:
    """The log-sum-exp of each row's logits, over all candidates that count."""

    def of(part: tuple[Array, _Members | None]) -> Array:
        # A row may lose all of a chunk; logsumexp and its gradient allow for that.
        return jax.nn.logsumexp(_logits(rows, part[0], own, part[1]), axis=-1)

    parts = _over_chunks(of, candidates, others, chunk)
    return parts[0] if len(parts) == 1 else jax.nn.logsumexp(parts, axis=0)
