"""The training step and its state, the same for one device and for a pod."""

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

from data_pipelines.console.errors import UserError
from vop_jax.devices.mesh import AXES, BATCH, tree_shardings, tree_specs
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.optimization.config import AlignmentConfig
from vop_jax.optimization.losses import LOSSES

# The parts of a feed's batch that go to the devices; the last two only if used.
INPUTS = ("frames", "text_ids", "identity", "frame_ids")


class TrainState(flax.struct.PyTreeNode):
    """What a step updates, and the arrays that a checkpoint holds.

    Attributes:
        step: number of steps done.
        learning_rate: the peak of the schedule; an array of the state rather than a
            constant of the program, so that a search over rates compiles once.
        trainable: the variable tree, `optax.MaskedNode` for every frozen leaf.
        optimizer: the optimizer's state, of the trained leaves only.
    """

    step: Int[Array, ""]
    learning_rate: Float[Array, ""]
    trainable: Any
    optimizer: optax.OptState


def merge(trainable: Any, frozen: Any) -> Any:
    """The complete variable tree from its trained and frozen leaves."""
    return jax.tree.map(
        lambda one, other: other if isinstance(one, optax.MaskedNode) else one,
        trainable,
        frozen,
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )


def features_and_vjp(
    encode: Callable[[Any, dict[str, Array]], Any],
    trainable: Any,
    batch: dict[str, Array],
    micro_batch: int = 0,
) -> tuple[Any, Callable[[Any], Any]]:
    """A batch's features, and their vector-Jacobian product with the trained leaves.

    Gradient caching (Gao et al., 2021): with micro-batches, all features are computed
    once without saving activations, and again one micro-batch at a time when their
    gradient is known. The result is the gradient of the complete batch with the memory
    of one micro-batch, for one more forward pass.

    Args:
        encode: (trained leaves, rows of the batch) -> features, computed row by row.
        trainable: the trained leaves.
        batch: arrays whose leading axis is the batch.
        micro_batch: rows per micro-batch, a divisor of the batch; 0 means no
            micro-batches.

    Returns:
        The features, and the function from the features' gradient to that of the
        trained leaves, as `jax.vjp` returns it.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    # Without micro-batches: one ordinary forward and backward pass.
    if not micro_batch or micro_batch >= size:
        return jax.vjp(lambda trainable: encode(trainable, batch), trainable)

    def parts(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: x.reshape(size // micro_batch, micro_batch, *x.shape[1:]), tree
        )

    # Forward pass of all micro-batches; nothing is saved for a backward pass.
    features = jax.lax.map(lambda part: encode(trainable, part), parts(batch))

    def vjp(gradient: Any) -> tuple[Any]:
        # Forward and backward pass of each micro-batch; the gradients add up.
        def add(total: Any, one: Any) -> tuple[Any, None]:
            part, wanted = one
            _, back = jax.vjp(lambda trainable: encode(trainable, part), trainable)
            return jax.tree.map(jnp.add, total, back(wanted)[0]), None

        start = jax.tree.map(jnp.zeros_like, trainable)
        total, _ = jax.lax.scan(add, start, (parts(batch), parts(gradient)))
        return (total,)

    return jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), features), vjp


def make_loss_and_gradient(
    model: DualEncoder,
    mesh: Mesh,
    *,
    loss: str = "auto",
    micro_batch: int = 0,
    loss_chunk: int = 0,
    alignment: AlignmentConfig | None = None,
) -> Callable[[Any, Any, dict[str, Array]], tuple[Array, Any]]:
    """Makes the function (trained, frozen leaves, global batch) -> (loss, gradient).

    A batch holds `frames` and `text_ids`, and `identity` if equal videos or captions
    are masked in the loss; for the loss `alignment` also `frame_ids`, the captions of
    the frames.

    Inside `shard_map` each device computes its shard of the batch, and all collectives
    are written out here: the features are gathered once, their gradient is scattered
    once, and the loss and the gradients of all parameters that are not sharded are
    summed by one float32 all-reduce. Otherwise XLA all-reduces every layer's gradient
    separately and in the compute dtype (possibly bfloat16).

    Args:
        model: both encoders.
        mesh: the devices.
        loss: a name of `losses.LOSSES`, whose parameters the model has.
        micro_batch: see `features_and_vjp`; counted over all devices.
        loss_chunk: see `contrastive_loss`.
        alignment: the terms of the loss `alignment`; None means its defaults.

    Raises:
        UserError: the micro-batch is not a multiple of the number of devices.
    """
    if micro_batch % mesh.size:
        raise UserError(
            f"config.micro_batch is {micro_batch}, which does not divide over "
            f"{mesh.size} devices; make it a multiple of that"
        )
    model, kind = model.on(mesh.devices.flat[0]), LOSSES[loss]
    terms = {"weights": alignment or AlignmentConfig()} if kind.weighted else {}

    def encode(trainable: Any, frozen: Any, batch: dict[str, Array]) -> Any:
        inputs = (batch[name] for name in kind.inputs)
        return model.apply(merge(trainable, frozen), *inputs, method=kind.encode)

    def on_device(trainable: Any, frozen: Any, batch: dict[str, Array]) -> Any:
        """This device's terms of the loss and of its gradient."""
        batch = dict(batch)
        identity = batch.pop("identity", None)
        # The loss depends on the parameters through the features and its own scalars.
        features, features_vjp = features_and_vjp(
            lambda trainable, batch: encode(trainable, frozen, batch),
            trainable,
            batch,
            micro_batch // mesh.size,
        )

        def scalars_of(trainable: Any) -> tuple[Array, ...]:
            params = merge(trainable, frozen)["params"]
            return tuple(params[name] for name in kind.parameters)

        scalars, scalars_vjp = jax.vjp(scalars_of, trainable)

        def loss_of(features: Any, scalars: tuple[Array, ...]) -> Array:
            return kind.function(
                *features, *scalars, identity, axes=AXES, chunk=loss_chunk, **terms
            )

        # The gradient with respect to both, then the chain rule back to the parameters.
        loss, (by_features, by_scalars) = jax.value_and_grad(loss_of, argnums=(0, 1))(
            features, scalars
        )
        gradient = jax.tree.map(
            jnp.add, features_vjp(by_features)[0], scalars_vjp(by_scalars)[0]
        )
        return loss, gradient

    def run(trainable: Any, frozen: Any, batch: dict[str, Array]) -> tuple[Array, Any]:
        specs = tree_specs(mesh, trainable)

        def summed(trainable: Any, frozen: Any, batch: dict[str, Array]) -> Any:
            loss, gradient = on_device(trainable, frozen, batch)
            return sum_over_devices(loss, gradient, specs)

        return jax.shard_map(
            summed,
            mesh=mesh,
            in_specs=(specs, tree_specs(mesh, frozen), BATCH),
            out_specs=(P(), specs),
            # The check cannot follow loop carries that start replicated and then vary.
            check_vma=False,
        )(trainable, frozen, batch)

    return run


def sum_over_devices(loss: Array, gradient: Any, specs: Any) -> tuple[Array, Any]:
    """Sums the devices' terms; all unsharded leaves are summed as one vector.

    Args:
        loss: this device's term.
        gradient: this device's terms; those of FSDP-sharded parameters are sharded.
        specs: the partition spec of each leaf.
    """
    leaves, tree = jax.tree.flatten(gradient)
    places = jax.tree.leaves(specs)
    together = [leaf for leaf, spec in zip(leaves, places, strict=True) if spec == P()]
    vector, back = ravel_pytree((loss, together))
    loss, together = back(jax.lax.psum(vector, AXES))
    rest = iter(together)
    # The transpose of the all-gather of a sharded parameter is a reduce-scatter, so its
    # gradient is summed over `fsdp` already.
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
    **options: Any,
) -> Callable[[TrainState, Any, dict[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """Makes the step (state, frozen leaves, batch) -> (state, metrics), not compiled.

    Only the trained leaves are differentiated, so the frozen backbone has neither
    weight gradients nor optimizer moments.

    Args:
        model: both encoders.
        optimizer: of the trained leaves.
        mesh: the devices.
        **options: of `make_loss_and_gradient`.
    """
    loss_and_gradient = make_loss_and_gradient(model, mesh, **options)

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
    """Compiles the step for a mesh; the old state is donated."""
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
