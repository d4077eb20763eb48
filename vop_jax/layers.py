"""One Transformer layer of CLIP whose attention also sees prompts.

A prompt row's own output is thrown away after every layer (VoP, section 3), so a prompt
needs no query, no attention output and no feed-forward part: it takes part as one more
key and value. That is the same function as running the concatenated sequence and
cutting it, at a fraction of the work.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vop_jax.attention import attend
from vop_jax.remat import keep
from vop_jax.sizes import TowerSize
from vop_jax.splash import pays, splash_attend


def _known_slope(
    function: Callable[[Array], Array], slope: Callable[[Array], Array]
) -> Callable[[Array], Array]:
    """A function that keeps its slope alone for the way back, not what makes it up."""
    known = jax.custom_jvp(function)
    known.defjvp(lambda x, dx: (function(*x), slope(*x) * dx[0]))
    return known


def _quick_gelu_slope(x: Array) -> Array:
    gate = jax.nn.sigmoid(1.702 * x)
    return gate * (1 + 1.702 * x * (1 - gate))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": _known_slope(
        lambda x: x * jax.nn.sigmoid(1.702 * x), _quick_gelu_slope
    ),
    "gelu": _known_slope(
        lambda x: jax.nn.gelu(x, approximate=False),
        lambda x: jax.scipy.stats.norm.cdf(x) + x * jax.scipy.stats.norm.pdf(x),
    ),
}


class Attention(nn.Module):
    """Multi-head attention of rows over tokens and prompts.

    Attributes:
        size: of the tower.
        dtype: of the products.
        splash: whether a TPU's kernel attends where it pays.
    """

    size: TowerSize
    dtype: Any = jnp.float32
    splash: bool = False

    @nn.compact
    def __call__(
        self,
        rows: Float[Array, "B G R D"],
        tokens: Float[Array, "B G S D"],
        prompts: Sequence[Array],
        mask: Bool[Array, "#B #G #H #R S"] | None,
    ) -> Float[Array, "B G R D"]:
        """Attends; all inputs are normalised already."""
        heads, width = self.size.heads, self.size.width
        project = {
            name: nn.DenseGeneral((heads, width // heads), dtype=self.dtype, name=name)
            for name in ("query", "key", "value")
        }

        def projected(name: str, x: Array) -> Array:
            x = project[name](x)
            # Kept as whole rows: a head's 64 numbers would fill half a TPU's lanes.
            return keep(x.reshape(*x.shape[:-2], width), name).reshape(x.shape)

        query = projected("query", rows) * (width // heads) ** -0.5
        groups = [tokens, *prompts]
        keys = [projected("key", group) for group in groups]
        values = [projected("value", group) for group in groups]
        if self.splash and pays(query, mask):
            mixed = splash_attend(query, keys, values)
        else:
            mixed = attend(query, keys, values, mask)
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name="out")(
            mixed
        )


class Mlp(nn.Module):
    """CLIP's feed-forward part."""

    size: TowerSize
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, rows: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
        """Applies both layers."""
        hidden = nn.Dense(self.size.mlp, dtype=self.dtype, name="fc_1")(rows)
        hidden = ACTIVATIONS[self.size.activation](keep(hidden, "hidden"))
        return nn.Dense(self.size.width, dtype=self.dtype, name="fc_2")(hidden)


class LayerNorm(nn.LayerNorm):
    """LayerNorm with float32 statistics taken in two passes."""

    # The one-pass variance loses digits where the mean is large, as in CLIP's tokens.
    use_fast_variance: bool = False


class Block(nn.Module):
    """A pre-norm Transformer layer; attributes as of `Attention`."""

    size: TowerSize
    dtype: Any = jnp.float32
    splash: bool = False

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B G S D"],
        prompts: Sequence[Array] = (),
        mask: Bool[Array, "#B #G #H #R S"] | None = None,
        read: Callable[[Array], Array] | None = None,
        beside: Mapping[str, Callable[[Array], Array]] | None = None,
    ) -> Float[Array, "B G R D"]:
        """Runs the layer.

        Args:
            tokens: the G groups of S tokens that attend among themselves.
            prompts: further keys and values, `[P, D]`, `[G, P, D]` or `[B, G, P, D]`.
            mask: which tokens each row may see.
            read: picks the rows that go on, `[B, G, S, D] -> [B, G, R, D]`; None
                means all. In the last layer only one row is ever looked at.
            beside: `attention` or `mlp` -> what is added to that part's output, from
                the normalised rows that enter it.

        Returns:
            The rows that go on.
        """
        beside = beside or {}
        norm = LayerNorm(self.size.epsilon, dtype=self.dtype, name="ln_1")
        normed = norm(tokens)
        rows, onward = (
            (normed, tokens) if read is None else (read(normed), read(tokens))
        )
        onward = onward + Attention(
            self.size, self.dtype, self.splash, name="attention"
        )(rows, normed, [norm(group) for group in prompts], mask)
        if "attention" in beside:
            onward = onward + beside["attention"](rows)
        onward = keep(onward, "attended")
        rows = LayerNorm(self.size.epsilon, dtype=self.dtype, name="ln_2")(onward)
        onward = onward + Mlp(self.size, self.dtype, name="mlp")(rows)
        return onward + beside["mlp"](rows) if "mlp" in beside else onward
