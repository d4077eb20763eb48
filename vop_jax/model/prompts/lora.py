"""LoRA: a low-rank change of the products that make queries, keys and values.

Hu et al., 2022, in the form of TempMe's and DiscoVLA's released code: one matrix A for
all changed projections of a layer, no factor alpha / r and no dropout. The change can
be added to a backbone's weights afterwards, see `weights.lora_merge`.
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vop_jax.model.prompts.layer_plan import Source
from vop_jax.model.prompts.variables import added, constant, uniform

PARTS = {"q": "query", "k": "key", "v": "value"}


class Lora(nn.Module):
    """The matrices of several layers, stacked: `A [K, r, D]` and `B [K, n D, r]`.

    Attributes:
        parts: the n projections that are changed, one of `config.LORA_PARTS`; B holds
            their rows one after another.
        layers: K, the number of layers that are changed.
        width: D.
        rank: r.
    """

    parts: str
    layers: int
    width: int
    rank: int

    @nn.compact
    def __call__(self, first: int) -> dict[str, Source]:
        """The sources of what is added to each projection.

        Args:
            first: the first layer that is changed, counted from 0.
        """
        count, width, rank = self.layers, self.width, self.rank
        # PyTorch's default of a linear layer. With B = 0 the start is CLIP itself.
        initial = uniform(1 / math.sqrt(width))
        down = added(self, "A", (count, rank, width), initial)
        rows = len(self.parts) * width
        up = added(self, "B", (count, rows, rank), constant(0.0))
        each = jnp.split(up, len(self.parts), axis=1)
        return {
            PARTS[part]: Source(first, (down, own), change)
            for part, own in zip(self.parts, each, strict=True)
        }


def change(
    weights: tuple[Float[Array, "r D"], Float[Array, "D r"]],
    rows: Float[Array, "*n D"],
) -> Float[Array, "*n D"]:
    """What one layer's matrices add to a projection of rows."""
    down, up = (x.astype(rows.dtype) for x in weights)
    return (rows @ down.T) @ up.T
