"""The training losses, over the global batch: softmax (the paper's) and others.

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

from vop_jax.optimization.alignment import divergence, similarity_of_frames
from vop_jax.optimization.config import AlignmentConfig

# A logit that no softmax gives any weight; finite, so that two of them can be compared.
_NOTHING = -1e9
# The factor of the released code on the mean divergence of two logits.
_DISTILLATION = 100


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


def alignment_loss(
    video: Float[Array, "b E"],
    text: Float[Array, "b E"],
    frames: Float[Array, "b F E"],
    captions: Float[Array, "b F E"],
    logit_scale: Float[Array, ""],
    identity: Int[Array, "b K"] | None = None,
    *,
    weights: AlignmentConfig,
    axes: tuple[str, ...] = (),
    chunk: int = 0,
) -> Float[Array, ""]:
    """The softmax loss, with captions of frames beside it (DiscoVLA).

    L_v + image_weight L_i + distillation_weight L_d: L_v is `contrastive_loss`, L_i the
    same of `similarity_of_frames`, and L_d the divergence of the similarities of L_v
    from those of L_i, over rows and over columns: 100 times its mean over B x B.

    Args:
        video: as of `contrastive_loss`, as are all but those below.
        text: of the same rows.
        frames: embeddings of the videos' frames.
        captions: embeddings of the captions of these frames.
        logit_scale: logarithm of the factor on all similarities.
        identity: pairs of equal rows are left out of all terms.
        weights: of the terms.
        axes: mesh axes that the batch is sharded over.
        chunk: number of candidates whose frames are compared at once; the `[b, B]`
            similarities of videos exist as a whole.

    Returns:
        The loss, or this device's term of it, as of `contrastive_loss`.
    """
    loss = contrastive_loss(video, text, logit_scale, identity, axes=axes, chunk=chunk)
    everyone = (video, text, frames, captions)
    if axes:
        everyone = jax.lax.all_gather(everyone, axes, tiled=True)
    videos, texts, all_frames, all_captions = everyone
    scale, count = jnp.exp(logit_scale), len(videos)
    own, others = _members(identity, axes)
    left_out = None
    if own is not None and others is not None:
        left_out = _left_out(own, others)

    def masked(logits: Array) -> Array:
        return logits if left_out is None else jnp.where(left_out, _NOTHING, logits)

    def by_frames(rows: Array, candidates: Array) -> Array:
        def of(part: tuple[Array, _Members | None]) -> Array:
            return similarity_of_frames(rows, part[0], scale)

        parts = _over_chunks(of, candidates, None, chunk)
        # [C, b, chunk] -> [b, B]
        return masked(scale * jnp.moveaxis(parts, 0, 1).reshape(len(rows), -1))

    # Rows and columns of the global matrix: of texts, and of videos.
    of_images = (by_frames(captions, all_frames), by_frames(frames, all_captions))
    of_videos = (
        masked(_logits(scale * text, videos, None, None)),
        masked(_logits(scale * video, texts, None, None)),
    )
    # Each pair of this device against itself.
    right = scale * jax.vmap(
        lambda one, other: similarity_of_frames(one[None], other[None], scale)[0, 0]
    )(captions, frames)
    image, distilled = -2 * right, jnp.zeros_like(right)
    for teacher, student in zip(of_images, of_videos, strict=True):
        image = image + jax.nn.logsumexp(teacher, axis=-1)
        if weights.detach_teacher:
            teacher = jax.lax.stop_gradient(teacher)
        distilled = distilled + divergence(teacher, student)
    image = jnp.sum(image) / (2 * count)
    distilled = _DISTILLATION * jnp.sum(distilled) / (2 * count**2)
    return loss + weights.image_weight * image + weights.distillation_weight * distilled


class Loss(NamedTuple):
    """A loss, the embeddings it is of, and the backbone's parameters that it takes.

    Attributes:
        function: (embeddings..., parameters..., identity, axes=, chunk=) -> the loss.
        parameters: names within `params`; frozen in most methods.
        encode: the method of `DualEncoder` that makes the embeddings.
        inputs: the parts of a batch that it takes.
        weighted: whether the function also takes `weights=`, of its terms.
    """

    function: Callable[..., Array]
    parameters: tuple[str, ...]
    encode: str = "encode_pairs"
    inputs: tuple[str, ...] = ("frames", "text_ids")
    weighted: bool = False


# The values of `config.loss`.
_SOFTMAX = Loss(contrastive_loss, ("logit_scale",))
LOSSES = {
    "auto": _SOFTMAX,
    "softmax": _SOFTMAX,
    "sigmoid": Loss(sigmoid_loss, ("logit_scale", "logit_bias")),
    "alignment": Loss(
        alignment_loss,
        ("logit_scale",),
        "encode_aligned",
        ("frames", "text_ids", "frame_ids"),
        weighted=True,
    ),
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
