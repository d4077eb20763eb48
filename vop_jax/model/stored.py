"""The dtype that frozen weights are stored in."""

from typing import Any

import jax
import jax.numpy as jnp


def store_frozen(frozen: Any, dtype: str) -> Any:
    """Casts the kernels of frozen leaves to the compute dtype.

    The layers would otherwise cast them in every step, and they take less memory so.

    Args:
        frozen: arrays or shapes.
        dtype: the compute dtype.
    """

    def one(path: Any, leaf: Any) -> Any:
        if path[-1].key != "kernel":
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype))
        return leaf.astype(jnp.dtype(dtype))

    return jax.tree_util.tree_map_with_path(one, frozen)
