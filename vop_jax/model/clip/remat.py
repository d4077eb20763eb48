"""Rematerialization policies: which activations a layer saves for the backward pass."""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

# The results of large matrix products (queries and keys after they are turned), of the
# attention kernel, and of the recurrence, which is sequential; norms, activation
# functions and attention weights are cheap to recompute.
_LEAN = ("query", "key", "value", "attention", "attended", "hidden", "context")
# Which tokens were merged: small integers, which a recomputation that rounds otherwise
# could choose otherwise, and the gradient would be of another function.
_CHOSEN = ("merged",)


def _all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive is not jax.lax.all_gather_p


# Name -> which intermediate results are saved. `none` recomputes nothing but the
# attention weights, which `attention` never saves, and gathers FSDP-sharded parameters
# again: saving the gathered ones would keep the complete model on every device.
POLICIES: dict[str, Callable[..., bool]] = {
    "none": _all_but_gathered,
    "lean": jax.checkpoint_policies.save_only_these_names(*_LEAN, *_CHOSEN),
    "full": jax.checkpoint_policies.save_only_these_names(*_CHOSEN),
}

# Names a value, so that a policy can save it.
name_saved = checkpoint_name


def remat(
    layer: Callable[..., Any], name: str, *, is_sharded: bool, looped: bool
) -> Callable[..., Any]:
    """Applies a rematerialization policy to a layer.

    Args:
        layer: the function.
        name: the policy, a key of `POLICIES`.
        is_sharded: whether the layer gathers FSDP-sharded parameters.
        looped: whether it is the body of a `lax.scan`, where XLA cannot merge the
            recomputation with the forward pass, so nothing has to prevent it.
    """
    if name == "none" and not is_sharded:
        return layer
    return jax.checkpoint(layer, policy=POLICIES[name], prevent_cse=not looped)
