"""A step whose numbers are not finite, and what is done about it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# `stop` ends the run; `skip` leaves the step out, a limited number of times.
NAN_POLICIES = ("stop", "skip")


def skip_unfinite(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that changes nothing but its count where its gradient is not finite.

    Parameters and moments stay as they were, bit for bit, and the schedule does not
    move. The count goes on, because it is the position in the data.

    Args:
        train_step: (state, frozen leaves, batch) -> (state, metrics with `loss` and
            `gradient_norm`), not yet compiled.
    """

    def guarded(state: Any, frozen: Any, batch: Any) -> Any:
        moved, metrics = train_step(state, frozen, batch)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        return kept.replace(step=moved.step), metrics

    return guarded
