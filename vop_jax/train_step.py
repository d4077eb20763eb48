"""The one step that trains, and its state."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from data_pipelines.errors import UserError
from vop_jax.dual_encoder import DualEncoder
from vop_jax.losses import contrastive_loss
from vop_jax.sharding import AXES, BATCH, tree_shardings, tree_specs


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


def store_frozen(frozen: Any, dtype: str) -> Any:
    """The frozen leaves with all kernels in the dtype they are computed in.

    The layers would cast them in every step; kept so they take less room as well.

    Args:
        frozen: arrays or shapes.
        dtype: of the computation.
    """

    def one(path: Any, leaf: Any) -> Any:
        if path[-1].key != "kernel":
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype))
        return leaf.astype(jnp.dtype(dtype))

    return jax.tree_util.tree_map_with_path(one, frozen)


def features_and_pull(
    encode: Callable[[Any, dict[str, Array]], Any],
    trainable: Any,
    batch: dict[str, Array],
    micro_batch: int = 0,
) -> tuple[Any, Callable[[Any], Any]]:
    """A batch's features, and the function from their gradient to the trained leaves'.

    Gradient caching (Gao et al., 2021): with micro-batches, every feature is computed
    once without keeping anything and once more, a micro-batch at a time, when its
    gradient is known. That is the gradient of the whole batch for the memory of one
    micro-batch and a further forward pass.

    Args:
        encode: (trained leaves, some of the batch) -> features, each row of its own.
        trainable: the trained leaves.
        batch: arrays whose leading axis is the batch.
        micro_batch: rows of a pass, a divisor of the batch; 0 takes all in one.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    if not micro_batch or micro_batch >= size:
        return jax.vjp(lambda trainable: encode(trainable, batch), trainable)

    def parts(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: x.reshape(size // micro_batch, micro_batch, *x.shape[1:]), tree
        )

    features = jax.lax.map(lambda part: encode(trainable, part), parts(batch))

    def pull(gradient: Any) -> tuple[Any]:
        def add(total: Any, one: Any) -> tuple[Any, None]:
            part, wanted = one
            _, back = jax.vjp(lambda trainable: encode(trainable, part), trainable)
            return jax.tree.map(jnp.add, total, back(wanted)[0]), None

        start = jax.tree.map(jnp.zeros_like, trainable)
        total, _ = jax.lax.scan(add, start, (parts(batch), parts(gradient)))
        return (total,)

    return jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), features), pull


def make_loss_and_gradient(
    model: DualEncoder, mesh: Mesh, *, micro_batch: int = 0, loss_chunk: int = 0
) -> Callable[[Any, Any, dict[str, Array]], tuple[Array, Any]]:
    """The function (trained, frozen leaves, global batch) -> (loss, its gradient).

    Each device runs its share of the batch by itself. What it sends is what is written
    here: the features once, their gradient once, and the loss with the gradient of all
    leaves that are not split, in one float32 sum. Left to itself the compiler sums each
    layer's part where it arises, in the dtype of the computation.

    Args:
        model: both encoders.
        mesh: what the arrays are placed on.
        micro_batch: see `features_and_pull`; counted over all devices.
        loss_chunk: see `contrastive_loss`.

    Raises:
        UserError: a micro-batch that does not divide over the devices.
    """
    if micro_batch % mesh.size:
        raise UserError(
            f"config.micro_batch is {micro_batch}, which {mesh.size} devices cannot "
            "share; make it a multiple of that"
        )
    model = model.on(mesh.devices.flat[0].platform)

    def encode(trainable: Any, frozen: Any, batch: dict[str, Array]) -> Any:
        features: Any = model.apply(
            merge(trainable, frozen), batch["frames"], batch["text_ids"]
        )
        return features[:2]

    def share(trainable: Any, frozen: Any, batch: dict[str, Array]) -> Any:
        features, pull = features_and_pull(
            lambda trainable, batch: encode(trainable, frozen, batch),
            trainable,
            batch,
            micro_batch // mesh.size,
        )
        scale, pull_scale = jax.vjp(
            lambda trainable: merge(trainable, frozen)["params"]["logit_scale"],
            trainable,
        )

        def loss_of(features: Any, scale: Array) -> Array:
            video, text = features
            return contrastive_loss(video, text, scale, axes=AXES, chunk=loss_chunk)

        loss, (by_features, by_scale) = jax.value_and_grad(loss_of, argnums=(0, 1))(
            features, scale
        )
        gradient = jax.tree.map(jnp.add, pull(by_features)[0], pull_scale(by_scale)[0])
        return loss, gradient

    def run(trainable: Any, frozen: Any, batch: dict[str, Array]) -> tuple[Array, Any]:
        specs = tree_specs(mesh, trainable)

        def summed(trainable: Any, frozen: Any, batch: dict[str, Array]) -> Any:
            loss, gradient = share(trainable, frozen, batch)
            return sum_over_devices(loss, gradient, specs)

        return jax.shard_map(
            summed,
            mesh=mesh,
            in_specs=(specs, tree_specs(mesh, frozen), BATCH),
            out_specs=(P(), specs),
            # Carries of the loops inside start the same everywhere and then differ.
            check_vma=False,
        )(trainable, frozen, batch)

    return run


def sum_over_devices(loss: Array, gradient: Any, specs: Any) -> tuple[Array, Any]:
    """Sums the devices' shares; all leaves that are not split travel together."""
    leaves, tree = jax.tree.flatten(gradient)
    places = jax.tree.leaves(specs)
    together = [leaf for leaf, spec in zip(leaves, places, strict=True) if spec == P()]
    vector, back = ravel_pytree((loss, together))
    loss, together = back(jax.lax.psum(vector, AXES))
    rest = iter(together)
    # What gathered a leaf's shares has summed their gradients within a copy already.
    leaves = [
        next(rest) if spec == P() else jax.lax.psum(leaf, "data")
        for leaf, spec in zip(leaves, places, strict=True)
    ]
    return loss, jax.tree.unflatten(tree, leaves)


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
    model: DualEncoder,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    micro_batch: int = 0,
    loss_chunk: int = 0,
) -> Callable[[TrainState, Any, dict[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """The step (state, frozen leaves, batch) -> (state, metrics), not yet compiled.

    Only the trained leaves are differentiated, so that no weight gradient of the frozen
    backbone ever exists, nor a moment of it. Arguments as of `make_loss_and_gradient`.
    """
    loss_and_gradient = make_loss_and_gradient(
        model, mesh, micro_batch=micro_batch, loss_chunk=loss_chunk
    )

    def train_step(state: TrainState, frozen: Any, batch: dict[str, Array]):
        loss, gradient = loss_and_gradient(state.trainable, frozen, batch)
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
