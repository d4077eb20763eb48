"""The configuration of the device mesh."""

import dataclasses
from typing import Annotated

from data_pipelines.console.errors import UserError
from data_pipelines.console.ranges import Range


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each axis of the mesh has.

    Attributes:
        data: number of copies of the parameters (data parallelism); -1 uses all
            remaining devices.
        fsdp: number of devices over which one copy of the parameters is sharded.
    """

    data: Annotated[int, Range(-1, 1_000_000)] = -1
    fsdp: Annotated[int, Range(1, 1_000_000)] = 1

    def check(self) -> None:
        """Checks what the ranges of the fields leave open.

        Raises:
            UserError: an axis has no device.
        """
        if not self.data:
            raise UserError(
                "config.mesh.data is 0; it must be -1, for all devices, or at least 1"
            )
