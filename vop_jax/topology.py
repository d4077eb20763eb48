"""A slice of TPUs that nobody has to own: devices that programs are compiled for."""

import importlib.util
import os
from typing import Any, NamedTuple

from data_pipelines.errors import UserError
from vop_jax.tpu_chips import CHIPS, Chip


class Topology(NamedTuple):
    """A slice.

    Attributes:
        name: for example `v5e:4x4`.
        chip: what one chip has.
        devices: of JAX, one a chip.
    """

    name: str
    chip: Chip
    devices: list[Any]


def find_topology(name: str) -> Topology:
    """Asks libtpu for a slice.

    Raises:
        UserError: no such slice, libtpu is missing, or another program uses it.
    """
    generation = name.partition(":")[0]
    if generation not in CHIPS:
        raise UserError(
            f"--topology={name} must begin with {', '.join(CHIPS)} and go on with a "
            "shape, for example v5e:4x4 or v4:2x2x2"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "libtpu, the compiler for TPUs, is not installed; it needs no TPU: set up "
            "with REQUIREMENTS=requirements-tpu.txt ./run.sh"
        )
    # Looking for the metadata of a machine that is no TPU takes minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    chip = CHIPS[generation]
    try:
        found = topologies.get_topology_desc(name, "tpu", chip_config_name=chip.config)
    # Of libtpu's own kinds, and of JAX's where it cannot be loaded.
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"libtpu does not give --topology={name} ({reason})") from None
    return Topology(name, chip, list(found.devices))
