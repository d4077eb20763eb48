"""The devices of a TPU slice, described by libtpu without the hardware."""

import importlib.util
import os
from typing import Any, NamedTuple

from data_pipelines.console.errors import UserError
from vop_jax.devices.chips import CHIPS, Chip


class Topology(NamedTuple):
    """A TPU slice.

    Attributes:
        name: for example `v5e:4x4`.
        chip: memory, FLOP/s and bandwidth of one chip.
        devices: JAX devices, one per chip.
    """

    name: str
    chip: Chip
    devices: list[Any]


def find_topology(name: str) -> Topology:
    """Asks libtpu for the description of a slice.

    Raises:
        UserError: there is no such slice, or libtpu is missing or in use.
    """
    generation = name.partition(":")[0]
    if generation not in CHIPS:
        raise UserError(
            f"--topology={name} must be one of {', '.join(CHIPS)} and, after a colon, "
            "a shape, for example v5e:4x4 or v4:2x2x2"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "libtpu, the compiler for TPUs, is not installed; it works without a TPU: "
            "install it with REQUIREMENTS=requirements-tpu.txt ./run.sh"
        )
    # On a machine without a TPU the query for its metadata takes minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # It is asked to compile alone, so it may also be loaded in other processes.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    chip = CHIPS[generation]
    try:
        found = topologies.get_topology_desc(name, "tpu", chip_config_name=chip.config)
    # libtpu raises exceptions of its own, and JAX others if libtpu cannot be loaded.
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"libtpu does not know --topology={name} ({reason}); use another shape, "
            "for example v5e:4x4"
        ) from None
    return Topology(name, chip, list(found.devices))
