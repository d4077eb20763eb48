"""Adapters: a bottleneck beside a frozen part of every layer (He et al., 2022)."""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from vop_jax.variables import added, constant, uniform

# What of a layer an adapter stands beside.
PLACES = ("attention", "mlp")


class Adapters(nn.Module):
    """The adapters of some layers.

    Attributes:
        place: which part they stand beside, of `PLACES`.
        layers: K, how many layers have one.
        width: D.
        bottleneck: W.
    """

    place: str
    layers: int
    width: int
    bottleneck: int

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        """`down.weight [K, W, D]`, `down.bias`, `up.weight [K, D, W]`, `up.bias`."""
        count, width, narrow = self.layers, self.width, self.bottleneck
        # An adapter starts as nothing: what it gives is zero until it has learned.
        parts = {
            "down.weight": ((narrow, width), uniform(width**-0.5)),
            "down.bias": ((narrow,), constant(0.0)),
            "up.weight": ((width, narrow), constant(0.0)),
            "up.bias": ((width,), constant(0.0)),
        }
        return {
            name: added(self, f"{self.place}.{name}", (count, *shape), initial)
            for name, (shape, initial) in parts.items()
        }


def adapt(
    weights: dict[str, Array], rows: Float[Array, "B G R D"]
) -> Float[Array, "B G R D"]:
    """What one layer's adapter adds to the output of the part it stands beside.

    Args:
        weights: as of `Adapters`, without the layer axis.
        rows: what enters that part, normalised.
    """
    weights = {name: value.astype(rows.dtype) for name, value in weights.items()}
    hidden = jax.nn.relu(rows @ weights["down.weight"].T + weights["down.bias"])
    return hidden @ weights["up.weight"].T + weights["up.bias"]
