"""What a layer keeps of its forward pass for the way back."""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

# The results of large matrix products, of the attention kernel, and of the recurrence
# that cannot be repeated in parallel; norms, activations and attention's weights are
# cheap to make again.
_LEAN = ("query", "key", "value", "attention", "attended", "hidden", "context")


def _all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive is not jax.lax.all_gather_p


# Name -> which intermediate results are kept. `none` repeats nothing but attention's
# weights, which `attention` never keeps, and the gathering of parameters that are split
# over devices: keeping them would put them together for good.
POLICIES: dict[str, Callable[..., bool]] = {
    "none": _all_but_gathered,
    "lean": jax.checkpoint_policies.save_only_these_names(*_LEAN),
    "full": jax.checkpoint_policies.nothing_saveable,
}

keep = checkpoint_name


def remat(
    layer: Callable[..., Any], name: str, *, split: bool, looped: bool
) -> Callable[..., Any]:
    """A layer that keeps what the policy says.

    Args:
        layer: the function.
        name: of `POLICIES`.
        split: whether the layer gathers its weights.
        looped: whether it is the body of a compiled loop, across which the compiler
            cannot merge the two passes anyhow.
    """
    if name == "none" and not split:
        return layer
    return jax.checkpoint(layer, policy=POLICIES[name], prevent_cse=not looped)
