"""The one step that trains, and its state."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from vop_jax.dual_encoder import DualEncoder
from vop_jax.losses import contrastive_loss
from vop_jax.sharding import BATCH, tree_shardings


class TrainState(flax.struct.PyTreeNode):
    """What a step changes, and all that a checkpoint of it holds.

    Attributes:
        step: number of steps done.
        trainable: the variable tree, `optax.MaskedNode` for every frozen leaf.
        learning_rate: at the top of the schedule; a number of the state and not of the
            program, so that a search over rates compiles once.
        optimizer: the optimizer's state, of the trained leaves alone.
    """

    step: Int[Array, ""]
    learning_rate: Float[Array, ""]
    trainable: Any
    optimizer: optax.OptState


def merge(trainable: Any, frozen: Any) -> Any:
    """The whole variable tree from its two halves."""
    return jax.tree.map(
        lambda one, other: other if isinstance(one, optax.MaskedNode) else one,
        trainable,
        frozen,
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )


def loss_of(
    model: DualEncoder, trainable: Any, frozen: Any, batch: dict[str, Array]
) -> Array:
    """The loss of a global batch as a function of the trained leaves."""
    features: Any = model.apply(
        merge(trainable, frozen), batch["frames"], batch["text_ids"]
    )
    return contrastive_loss(*features)


def initial_state(
    trainable: Any, optimizer: optax.GradientTransformation, learning_rate: float
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        jnp.zeros((), jnp.int32),
        jnp.float32(learning_rate),
        trainable,
        optimizer.init(trainable),
    )


def make_train_step(
    model: DualEncoder, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Any, dict[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """The step (state, frozen leaves, batch) -> (state, metrics), not yet compiled.

    Only the trained leaves are differentiated, so that no weight gradient of the frozen
    backbone ever exists, nor a moment of it.
    """

    def train_step(state: TrainState, frozen: Any, batch: dict[str, Array]):
        loss, gradient = jax.value_and_grad(
            lambda trainable: loss_of(model, trainable, frozen, batch)
        )(state.trainable)
        updates, moments = optimizer.update(gradient, state.optimizer, state.trainable)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        updates = optax.tree.scale(state.learning_rate, updates)
        trainable = optax.apply_updates(state.trainable, updates)
        state = state.replace(
            step=state.step + 1, trainable=trainable, optimizer=moments
        )
        return state, metrics

    return train_step


def compile_train_step(
    train_step: Callable[..., Any], mesh: Mesh, state: TrainState, frozen: Any
) -> Callable[..., Any]:
    """Compiles the step for a mesh; the old state's memory is used again."""
    state_shardings = tree_shardings(mesh, state)
    everywhere = NamedSharding(mesh, P())
    return jax.jit(
        train_step,
        in_shardings=(
            state_shardings,
            tree_shardings(mesh, frozen),
            NamedSharding(mesh, BATCH),
        ),
        out_shardings=(state_shardings, everywhere),
        donate_argnums=0,
    )
