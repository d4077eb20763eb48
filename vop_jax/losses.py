"""The training loss."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def contrastive_loss(
    video: Float[Array, "B E"],
    text: Float[Array, "B E"],
    logit_scale: Float[Array, ""],
) -> Float[Array, ""]:
    """Symmetric cross-entropy of exp(logit_scale) * s over the global batch.

    Args:
        video: embeddings of the whole batch's videos.
        text: embeddings of their captions, in the same order.
        logit_scale: logarithm of the factor on the similarities.
    """
    # A TPU multiplies in bfloat16 unless asked; at a factor of 100 that is visible.
    logits = jnp.exp(logit_scale) * jnp.matmul(
        text, video.T, precision=jax.lax.Precision.HIGHEST
    )
    labels = jnp.arange(logits.shape[0])
    both = [
        optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()
        for scores in (logits, logits.T)
    ]
    return (both[0] + both[1]) / 2
