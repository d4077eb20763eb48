"""The device mesh, and the sharding of each array on it."""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from data_pipelines.console.errors import UserError
from vop_jax.devices import sharded_params
from vop_jax.devices.config import MeshConfig

AXES = ("data", sharded_params.AXIS)
BATCH = P(AXES)

# (pattern of a leaf's path, partition spec of its last axes): the first that matches
# and whose axis is divisible. A leaf without one is replicated: prompts, norms and
# biases are small.
_RULES = (
    (r".*/attention/(query|key|value)/kernel", P("fsdp", None, None)),
    (r".*/attention/out/kernel", P(None, None, "fsdp")),
    (r".*/mlp/(fc_[12]|gate|up)/kernel", P("fsdp", None)),
    # Where the hidden width is not divisible.
    (r".*/mlp/fc_2/kernel", P(None, "fsdp")),
    (r".*/text/token_embedding", P(None, "fsdp")),
)


def make_mesh(config: MeshConfig, devices: Any = None) -> Mesh:
    """The mesh `(data, fsdp)` over all devices.

    Raises:
        UserError: the product of the axes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    # On a TPU the ids of a host's devices are not adjacent, but a process provides
    # adjacent rows of a batch.
    devices = sorted(devices, key=lambda x: (x.process_index, x.id))
    data = config.data if config.data > 0 else len(devices) // max(config.fsdp, 1)
    if data * config.fsdp != len(devices):
        raise UserError(
            f"config.mesh asks for data={config.data} times fsdp={config.fsdp} devices "
            f"but there are {len(devices)}; set config.mesh.data=-1 to take them all"
        )
    return Mesh(
        np.asarray(devices).reshape(data, config.fsdp),
        ("data", "fsdp"),
        # Explicit axes, JAX's default, would need annotations inside Linen's modules.
        axis_types=(AxisType.Auto,) * 2,
    )


def tree_specs(mesh: Mesh, tree: Any) -> Any:
    """The partition spec of each leaf of a variable tree or optimizer state."""

    def spec(path: Any, leaf: Any) -> P:
        name = "/" + "/".join(str(getattr(key, "key", key)) for key in path)
        return _spec(mesh, name, tuple(leaf.shape))

    return jax.tree_util.tree_map_with_path(spec, tree)


def tree_shardings(mesh: Mesh, tree: Any) -> Any:
    """The sharding of each leaf of a variable tree or optimizer state."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), tree_specs(mesh, tree))


def _spec(mesh: Mesh, path: str, shape: tuple[int, ...]) -> P:
    for pattern, last_axes in _RULES:
        if re.fullmatch(pattern, path) and len(shape) >= len(last_axes):
            spec = (*(None,) * (len(shape) - len(last_axes)), *last_axes)
            fits = all(
                axis is None or size % mesh.shape[axis] == 0
                for axis, size in zip(spec, shape, strict=True)
            )
            if fits:
                return P(*spec)
    return P()


def per_device(
    function: Callable[[Any, Array], Any], mesh: Mesh
) -> Callable[[Any, Array], Array]:
    """Compiles (variables, rows) -> rows so that each device computes its own rows.

    The result is replicated on every device.
    """

    def run(variables: Any, rows: Array) -> Array:
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(tree_specs(mesh, variables), BATCH),
            out_specs=BATCH,
            check_vma=False,
        )(variables, rows)

    return jax.jit(run, out_shardings=NamedSharding(mesh, P()))


def put_tree(mesh: Mesh, tree: Any) -> Any:
    """Places a tree on the mesh; every process passes the complete arrays."""
    return jax.tree.map(
        lambda leaf, sharding: jax.make_array_from_callback(
            leaf.shape, sharding, lambda index: leaf[index]
        ),
        tree,
        tree_shardings(mesh, tree),
    )


def check_batch(mesh: Mesh, size: int) -> None:
    """Checks that a global batch is divisible by the number of devices.

    Raises:
        UserError: it is not.
    """
    if size % mesh.size:
        raise UserError(
            f"a batch of {size} videos does not divide over {mesh.size} devices; set "
            f"config.batch_size to a multiple of {mesh.size}"
        )


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Places this process's shard of a global batch, sharded over all devices.

    Raises:
        UserError: the batch is not divisible by the number of devices.
    """
    sharding = NamedSharding(mesh, BATCH)
    check_batch(mesh, len(next(iter(batch.values()))) * jax.process_count())
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
