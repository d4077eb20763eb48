"""How far a run is, and what it was started on."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
from etils import epath

from data_pipelines.console.errors import UserError
from data_pipelines.preparing.provenance import warn_of_difference
from vop_jax.training.checkpoint import Restored
from vop_jax.training.run import Run


def origin_of(run: Run) -> dict[str, Any]:
    """What determines a run's result besides its configuration.

    A run is resumed only if seed, backbone and training data are still the same.
    """
    train = run.data.splits["train"]
    digest = hashlib.sha256("\n".join(train.video_ids).encode())
    digest.update(np.ascontiguousarray(train.token_ids).tobytes())
    digest.update(np.ascontiguousarray(train.caption_start).tobytes())
    return {
        "seed": run.config.seed,
        "backbone_sha256": run.backbone.sha256,
        "data_sha256": digest.hexdigest(),
        "provenance": run.data.provenance,
    }


@dataclasses.dataclass
class Progress:
    """How far a run is; saved with every checkpoint.

    Attributes:
        origin: see `origin_of`.
        step: number of steps done, which is also the position in the data.
        skipped: how many of their updates were skipped because they were not finite.
        productive: seconds spent on the other steps.
    """

    origin: dict[str, Any]
    step: int = 0
    skipped: int = 0
    productive: float = 0.0

    @classmethod
    def of(
        cls, restored: Restored, origin: dict[str, Any], place: epath.Path
    ) -> "Progress":
        """The progress in a checkpoint.

        Raises:
            UserError: the checkpoint's origin is not this run's.
        """
        data = dict(restored.data)
        kept = data.pop("origin")
        for name, what in (
            ("backbone_sha256", "another backbone than config.backbone holds now"),
            ("data_sha256", "other training data than config.data_dir holds now"),
            ("seed", "another seed"),
        ):
            if kept[name] != origin[name]:
                raise UserError(
                    f"the checkpoint of step {restored.step} in {place} was trained on "
                    f"{what}; restore it, or use another --workdir"
                )
        warn_of_difference(kept["provenance"], origin["provenance"])
        return cls(origin, **data)

    def as_json(self) -> dict[str, Any]:
        """The JSON values that a checkpoint holds."""
        return dataclasses.asdict(self)
