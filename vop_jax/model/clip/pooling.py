"""Attention pooling: the rows of a frame to one, by a learned query (the probe).

Zhai et al., 2022 (MAP head), as in SigLIP and PE-Core: the attention has no residual
connection, the MLP behind it has one.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vop_jax.model.clip.attention import attend
from vop_jax.model.clip.layers import LayerNorm, Mlp
from vop_jax.model.clip.precision import Precision
from vop_jax.model.clip.products import dense
from vop_jax.model.clip.sizes import TowerSize


class _Heads(nn.Module):
    """The kernel `[D, H, d]` and bias `[H, d]` of a linear layer to heads."""

    width: int
    heads: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        shape = (self.width, self.heads, self.width // self.heads)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        return kernel, self.param("bias", nn.initializers.zeros, shape[1:])


class _ProbeAttention(nn.Module):
    """The attention of one constant query, the probe, over the rows of a frame.

    There is one query a head for all frames, so no row needs a key or a value of its
    own. The score `q . (K x + k)` is `(K^T q) . x`, up to a constant that the softmax
    drops, and the mean of `V x + v` over rows is V of the mean row. So each head takes
    the rows themselves as keys and values, which saves two products of D x D per row.
    """

    size: TowerSize
    precision: Precision

    @nn.compact
    def __call__(
        self, probe: Float[Array, "D"], rows: Float[Array, "B F S D"]
    ) -> Float[Array, "B F D"]:
        width, heads = self.size.width, self.size.heads
        query, key, value = (
            _Heads(width, heads, name=name)() for name in ("query", "key", "value")
        )
        own = jnp.einsum("d,dhe->he", probe, query[0]) + query[1]
        own = own * (width // heads) ** -0.5
        # [H, D], in the place of rows; the one head is as wide as a row.
        own = jnp.einsum("he,dhe->hd", own, key[0])
        own = jnp.broadcast_to(own[:, None], (*rows.shape[:2], heads, 1, width))
        rows = rows.astype(self.precision.operands)[..., None, :]
        mixed = attend(own, [rows], [rows])[..., 0, :]
        mixed = jnp.einsum("bfhd,dhe->bfhe", mixed, value[0]) + value[1]
        return nn.DenseGeneral(
            width, axis=(-2, -1), name="out", **dense(self.precision)
        )(mixed)


class Pooling(nn.Module):
    """Attention pooling.

    Attributes:
        size: of the attention and the MLP, as of `VisionSize.pooling`.
        precision: the dtypes of products and of what is between them.
    """

    size: TowerSize
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, rows: Float[Array, "B F S D"]) -> Float[Array, "B F D"]:
        """Pools the rows of each frame; they have passed the tower's last LayerNorm."""
        size, results = self.size, self.precision.results
        initial = nn.initializers.normal(size.width**-0.5)
        probe = self.param("probe", initial, (size.width,))
        pooled = _ProbeAttention(size, self.precision, name="attention")(probe, rows)
        pooled = pooled.astype(results)
        normed = LayerNorm(size.epsilon, dtype=results, name="ln")(pooled)
        return pooled + Mlp(size, self.precision, name="mlp")(normed)
