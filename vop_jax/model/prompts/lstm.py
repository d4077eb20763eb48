"""PyTorch's LSTM with all directions in one loop, and its backward pass.

The loop is bound by memory bandwidth, so everything that can be computed outside of it
is: the input's contribution to the gates is one matrix product before the loop, the
gradient of the recurrent weights one after it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vop_jax.model.clip.remat import name_saved

FORWARD, BACKWARD = "", "_reverse"


def gate_shapes(width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one direction's variables; gates are input, forget, cell, output."""
    return {
        "weight_ih_l0": (4 * hidden, width),
        "weight_hh_l0": (4 * hidden, hidden),
        "bias_ih_l0": (4 * hidden,),
        "bias_hh_l0": (4 * hidden,),
    }


def make_lstm(
    weights: Mapping[str, Array], directions: Sequence[str]
) -> Callable[[Float[Array, "B F D"]], Float[Array, "B F nH"]]:
    """A one-layer LSTM as a function of its input, computed in float32.

    Args:
        weights: PyTorch's names and layouts, see `gate_shapes`, with the suffix of
            each direction.
        directions: of `FORWARD` and `BACKWARD`; their outputs are concatenated.
    """

    def stacked(name: str) -> Array:
        return jnp.stack([weights[f"{name}_l0{suffix}"] for suffix in directions])

    weight_ih, weight_hh = stacked("weight_ih"), stacked("weight_hh")
    bias = stacked("bias_ih") + stacked("bias_hh")

    def in_time(x: Float[Array, "F n ..."]) -> Array:
        """Reverses the frames of the backward directions; its own inverse."""
        return jnp.stack(
            [
                x[::-1, i] if suffix == BACKWARD else x[:, i]
                for i, suffix in enumerate(directions)
            ],
            axis=1,
        )

    def run(frames: Float[Array, "B F D"]) -> Float[Array, "B F nH"]:
        gates = jnp.einsum("bfd,ngd->fnbg", frames.astype(jnp.float32), weight_ih)
        hidden = in_time(_recurrence(in_time(gates + bias[:, None]), weight_hh))
        batch, count = frames.shape[:2]
        # [F, n, B, H] -> [B, F, n * H]
        return hidden.transpose(2, 0, 1, 3).reshape(batch, count, -1)

    return run


def _activate(gates: Array) -> tuple[Array, Array, Array, Array]:
    enter, forget, update, leave = jnp.split(gates, 4, axis=-1)
    sigmoid = jax.nn.sigmoid
    return sigmoid(enter), sigmoid(forget), jnp.tanh(update), sigmoid(leave)


@jax.custom_vjp
def _recurrence(
    inputs: Float[Array, "F n B 4H"], weight: Float[Array, "n 4H H"]
) -> Float[Array, "F n B H"]:
    """The hidden states of n directions, from the input's contribution to the gates."""
    return _recurrence_forward(inputs, weight)[0]


def _recurrence_forward(inputs: Array, weight: Array) -> tuple[Array, Any]:
    start = jnp.zeros((*inputs.shape[1:3], weight.shape[-1]), jnp.float32)

    def step(carry, share):
        hidden, cell = carry
        gates = share + jnp.einsum("nbh,ngh->nbg", hidden, weight)
        enter, forget, update, leave = _activate(gates)
        cell = forget * cell + enter * update
        hidden = leave * jnp.tanh(cell)
        return (hidden, cell), (hidden, cell, gates)

    _, passed = jax.lax.scan(step, (start, start), inputs)
    hidden, cells, gates = (name_saved(x, "context") for x in passed)
    return hidden, (hidden, cells, gates, weight)


def _recurrence_backward(saved: Any, gradient: Array) -> tuple[Array, Array]:
    hidden, cells, gates, weight = saved
    start = jnp.zeros_like(hidden[:1])
    previous_hidden = jnp.concatenate([start, hidden[:-1]])
    previous_cells = jnp.concatenate([start, cells[:-1]])

    def step(carry, now):
        by_hidden, by_cell = carry
        outside, cell, previous, gates = now
        enter, forget, update, leave = _activate(gates)
        bent = jnp.tanh(cell)
        by_hidden = by_hidden + outside
        by_cell = by_cell + by_hidden * leave * (1 - bent**2)
        by_gates = jnp.concatenate(
            [
                by_cell * update * enter * (1 - enter),
                by_cell * previous * forget * (1 - forget),
                by_cell * enter * (1 - update**2),
                by_hidden * bent * leave * (1 - leave),
            ],
            axis=-1,
        )
        by_previous = jnp.einsum("nbg,ngh->nbh", by_gates, weight)
        return (by_previous, by_cell * forget), by_gates

    end = (start[0], start[0])
    _, by_inputs = jax.lax.scan(
        step, end, (gradient, cells, previous_cells, gates), reverse=True
    )
    by_weight = jnp.einsum("fnbg,fnbh->ngh", by_inputs, previous_hidden)
    return by_inputs, by_weight


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)
