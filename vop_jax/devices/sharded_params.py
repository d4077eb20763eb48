"""FSDP-sharded parameters, gathered where they are used.

Under `fsdp` each device stores a shard of every large kernel. A layer gathers its own
kernels when it runs and does not save them for the backward pass, which gathers them
again, so that no device ever holds the complete model.
"""

from typing import Any

import jax
from jaxtyping import Array

AXIS = "fsdp"


def is_sharded(tree: Any, full: Any) -> bool:
    """Whether any leaf is a shard, which its shape tells.

    Args:
        tree: arrays, complete or this device's shards.
        full: the same tree with the complete shapes.
    """
    return any(
        leaf.shape != complete.shape
        for leaf, complete in zip(
            jax.tree.leaves(tree), jax.tree.leaves(full), strict=True
        )
    )


def gather(tree: Any, full: Any) -> Any:
    """All-gathers the leaves that are shards.

    Args:
        tree: arrays, complete or this device's shards along one axis.
        full: the same tree with the complete shapes.

    Returns:
        The tree with every leaf complete.
    """

    def one(leaf: Array, complete: Any) -> Array:
        for axis, (have, want) in enumerate(
            zip(leaf.shape, complete.shape, strict=True)
        ):
            if have != want:
                return jax.lax.all_gather(leaf, AXIS, axis=axis, tiled=True)
        return leaf

    return jax.tree.map(one, tree, full)
