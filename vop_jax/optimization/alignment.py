"""Similarity of videos by their frames: each frame beside captions of frames.

DiscoVLA (Shen et al., 2025), in the form of its released code.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def similarity_of_frames(
    rows: Float[Array, "n F E"],
    candidates: Float[Array, "m G E"],
    scale: Float[Array, ""],
) -> Float[Array, "n m"]:
    """How well the frames of videos match the captions of others' frames.

    Every caption takes the frame that is nearest to it, and every frame the caption;
    both are averaged with the softmax of scale times themselves as weights. It is the
    same whichever of the two are frames.

    Args:
        rows: the embeddings of n videos' frames or of their captions.
        candidates: those of the other kind.
        scale: the factor on similarities, not its logarithm.
    """
    # A TPU multiplies in bfloat16 by default; at a scale of 100 the error matters.
    products = jnp.einsum(
        "nfe,mge->nmfg", rows, candidates, precision=jax.lax.Precision.HIGHEST
    )

    def weighted(nearest: Array) -> Array:
        return jnp.sum(jax.nn.softmax(scale * nearest, axis=-1) * nearest, axis=-1)

    return (weighted(products.max(axis=-1)) + weighted(products.max(axis=-2))) / 2


def divergence(
    teacher: Float[Array, "n m"], student: Float[Array, "n m"]
) -> Float[Array, "n"]:
    """KL(softmax(teacher) || softmax(student)) of each row of logits."""
    of_teacher = jax.nn.log_softmax(teacher, axis=-1)
    of_student = jax.nn.log_softmax(student, axis=-1)
    return jnp.sum(jnp.exp(of_teacher) * (of_teacher - of_student), axis=-1)
