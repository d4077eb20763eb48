"""What happens to a step whose loss or gradient is not finite."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def skip_non_finite_steps(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that skips the update if the loss or the gradient is not finite.

    Parameters, moments and the position in the learning-rate schedule stay unchanged,
    bit for bit. Only `state.step` advances, because it is the position in the data.

    Args:
        train_step: (state, frozen leaves, batch) -> (state, metrics with `loss` and
            `gradient_norm`), before compilation.
    """

    def guarded(state: Any, frozen: Any, batch: Any) -> Any:
        moved, metrics = train_step(state, frozen, batch)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        return kept.replace(step=moved.step), metrics

    return guarded
