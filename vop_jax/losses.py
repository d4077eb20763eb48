"""The training loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def contrastive_loss(
    video: Float[Array, "b E"],
    text: Float[Array, "b E"],
    logit_scale: Float[Array, ""],
    *,
    axes: tuple[str, ...] = (),
    chunk: int = 0,
) -> Float[Array, ""]:
    """Symmetric cross-entropy of exp(logit_scale) * s over the global batch.

    Args:
        video: embeddings of the batch's videos.
        text: embeddings of their captions, in the same order.
        logit_scale: logarithm of the factor on the similarities.
        axes: the axes of a mesh over which the batch is split, where this runs once on
            each device and is given that device's share of B rows. All features are
            then gathered once, and each device scores its own rows alone.
        chunk: how many of the B candidates are scored at a time, a divisor of B, so
            that `[b, chunk]` similarities exist at once; 0 scores all of them.

    Returns:
        The loss; where the batch is split, this device's share of it. The loss is then
        the sum over all devices, as its gradient is.
    """
    rows = jnp.concatenate([text, video], axis=-1)
    everyone = jax.lax.all_gather(rows, axes, tiled=True) if axes else rows
    texts, videos = jnp.split(everyone, 2, axis=-1)
    scale = jnp.exp(logit_scale)
    right = scale * jnp.sum(text * video, axis=-1)
    to_videos = _log_sum(scale * text, videos, chunk)
    to_texts = _log_sum(scale * video, texts, chunk)
    return jnp.sum(to_videos + to_texts - 2 * right) / (2 * len(everyone))


def _log_sum(
    rows: Float[Array, "b E"], candidates: Float[Array, "B E"], chunk: int
) -> Float[Array, "b"]:
    """Each row's logarithm of the sum of the exponentials of its logits."""

    def of(some: Array) -> Array:
        # A TPU multiplies in bfloat16 unless asked; at a factor of 100 that is visible.
        logits = jnp.matmul(rows, some.T, precision=jax.lax.Precision.HIGHEST)
        return jax.nn.logsumexp(logits, axis=-1)

    if not chunk or chunk >= len(candidates):
        return of(candidates)
    # Scored again on the way back, where all logits would otherwise be kept.
    parts = jax.lax.map(
        jax.checkpoint(of), candidates.reshape(-1, chunk, candidates.shape[-1])
    )
    return jax.nn.logsumexp(parts, axis=0)
