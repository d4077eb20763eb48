"""Fusion of frames: the class row of each frame attends to the rows of all frames.

IVFusion, the vision half of DiscoVLA (Shen et al., 2025), in the form of its released
code. In the last layers of a tower the attention of a frame's class row is over the
keys and values of all frames' rows; all other rows attend within their frame, as ever.
A bottleneck of what the class row finds within its frame is added. The text half does
the same with the captions of a video's frames, whose EOT rows stand for them.

The bottleneck is zero at the start, which is not the frozen model: the attention within
a frame has been replaced, and its part has to be learned.
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from vop_jax.model.clip.layers import ACTIVATIONS, Across
from vop_jax.model.prompts.layer_plan import Source
from vop_jax.model.prompts.variables import added, constant, normal, uniform


class Fusion(nn.Module):
    """The bottlenecks of a tower's last layers, stacked.

    Attributes:
        layers: the number of these layers.
        width: D.
        bottleneck: W.
    """

    layers: int
    width: int
    bottleneck: int

    @nn.compact
    def __call__(self, first: int) -> Source:
        """The source of what is added to the attention over all frames.

        Variables: `down.weight [K, W, D]`, `down.bias`, `up.weight [K, D, W]` and
        `up.bias`.

        Args:
            first: the first layer whose class rows attend across frames, from 0.
        """
        width, narrow = self.width, self.bottleneck
        # Xavier's bound, as in the released code.
        spread = uniform(math.sqrt(6 / (narrow + width)))
        parts = {
            "down.weight": ((narrow, width), spread),
            "down.bias": ((narrow,), normal(1e-6)),
            "up.weight": ((width, narrow), constant(0.0)),
            "up.bias": ((width,), constant(0.0)),
        }
        weights = {
            name: added(self, name, (self.layers, *shape), initial)
            for name, (shape, initial) in parts.items()
        }
        return Source(first, weights, bottleneck)


def bottleneck(
    weights: dict[str, Array], rows: Float[Array, "B G R D"]
) -> Float[Array, "B G R D"]:
    """What is added to the attention over all frames of one layer's class rows.

    Args:
        weights: as of `Fusion`, without the layer axis.
        rows: the outputs of their attention within their frame.
    """
    weights = {name: value.astype(rows.dtype) for name, value in weights.items()}
    hidden = rows @ weights["down.weight"].T + weights["down.bias"]
    # Not the tower's own activation.
    hidden = ACTIVATIONS["quick_gelu"](hidden)
    return hidden @ weights["up.weight"].T + weights["up.bias"]


def class_rows() -> Across:
    """The first row of each frame, in a layer that computes all rows."""
    return Across(
        lambda rows: rows[:, :, :1], lambda rows, new: rows.at[:, :, :1].set(new)
    )


def read_rows(end: Int[Array, "B G"], length: int, *, causal: bool) -> Across:
    """The row of each caption that is read, in a layer that computes all rows.

    Args:
        end: its position.
        length: of the captions, padding included.
        causal: whether the tower is, so that the rows after the one that is read are
            nothing that it may see.
    """
    index = jnp.arange(length)

    def pick(rows: Array) -> Array:
        places = end.reshape(*end.shape, *(1,) * (rows.ndim - 2))
        return jnp.take_along_axis(rows, places, axis=2)

    def put(rows: Array, new: Array) -> Array:
        return jnp.where((index == end[..., None])[..., None], new, rows)

    return Across(pick, put, index <= end[..., None] if causal else None)
