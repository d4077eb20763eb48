"""Parameters of which a device holds a share, put together where they are used.

Under `fsdp` each device stores a part of every large kernel. A layer gathers its own
kernels when it runs and forgets them afterwards, on the way back as well, so that no
device ever holds the whole model.
"""

from typing import Any

import jax
from jaxtyping import Array

AXIS = "fsdp"


def split(tree: Any, like: Any) -> bool:
    """Whether any leaf is a share, told by its shape from the whole of `like`."""
    return any(
        leaf.shape != whole.shape
        for leaf, whole in zip(
            jax.tree.leaves(tree), jax.tree.leaves(like), strict=True
        )
    )


def gather(tree: Any, like: Any) -> Any:
    """The whole of each leaf.

    Args:
        tree: leaves that are whole, or this device's share along one axis.
        like: leaves of the whole shapes.
    """

    def one(leaf: Array, whole: Any) -> Array:
        for axis, (have, want) in enumerate(zip(leaf.shape, whole.shape, strict=True)):
            if have != want:
                return jax.lax.all_gather(leaf, AXIS, axis=axis, tiled=True)
        return leaf

    return jax.tree.map(one, tree, like)
