"""Adapters: a bottleneck in parallel to a part of every layer (He et al., 2022)."""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from vop_jax.model.prompts.layer_plan import Source
from vop_jax.model.prompts.variables import added, constant, uniform


class Adapters(nn.Module):
    """The adapters of several layers, stacked.

    Attributes:
        place: the part they run in parallel to, of `config.PLACES`.
        layers: K, the number of layers with an adapter.
        width: D.
        bottleneck: W.
    """

    place: str
    layers: int
    width: int
    bottleneck: int

    @nn.compact
    def __call__(self, first: int) -> dict[str, Source]:
        """The source of what is added to the part's output.

        Variables: `down.weight [K, W, D]`, `down.bias`, `up.weight [K, D, W]` and
        `up.bias`.

        Args:
            first: the first layer with an adapter, counted from 0.
        """
        count, width, narrow = self.layers, self.width, self.bottleneck
        # The up-projection starts at zero, so that training starts from CLIP itself.
        parts = {
            "down.weight": ((narrow, width), uniform(width**-0.5)),
            "down.bias": ((narrow,), constant(0.0)),
            "up.weight": ((width, narrow), constant(0.0)),
            "up.bias": ((width,), constant(0.0)),
        }
        weights = {
            name: added(self, f"{self.place}.{name}", (count, *shape), initial)
            for name, (shape, initial) in parts.items()
        }
        return {self.place: Source(first, weights, adapt)}


def adapt(
    weights: dict[str, Array], rows: Float[Array, "B G R D"]
) -> Float[Array, "B G R D"]:
    """What one layer's adapter adds to the output of the part it runs in parallel to.

    Args:
        weights: as of `Adapters`, without the layer axis.
        rows: the normalised input of that part.
    """
    weights = {name: value.astype(rows.dtype) for name, value in weights.items()}
    hidden = jax.nn.relu(rows @ weights["down.weight"].T + weights["down.bias"])
    return hidden @ weights["up.weight"].T + weights["up.bias"]
