"""Resolves a model's path: a run, a CLIP's folder, an embedded one, a hub name."""

import os
from pathlib import Path
from typing import NamedTuple

from data_pipelines.console.errors import UserError
from vop_jax.model.methods import find_method
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.surface.inputs import shown
from vop_jax.weights.file_names import TUNED
from vop_jax.weights.locate import EMBEDDED, configured_folder, find_folder
from vop_jax.weights.tuned_config import (
    backbone_folder,
    check_tuned_file,
    read_tuned_config,
)


class ModelParts(NamedTuple):
    """What a path stands for.

    Attributes:
        backbone: its folder.
        tuned: the file of the tuned parameters, if there are any.
        sha256: of the backbone's weights, where the tuned parameters' folder states it.
        run: the folder of the run that it is, or empty.
    """

    backbone: Path
    tuned: Path | None = None
    sha256: str = ""
    run: str = ""

    def check(self, sha256: str | None) -> None:
        """Checks that a backbone is the one that the tuned parameters belong to.

        Args:
            sha256: of the backbone's weights; None accepts any.

        Raises:
            UserError: it is another.
        """
        if sha256 is not None and self.sha256 not in ("", sha256):
            raise UserError(
                f"{self.backbone}: the weights have sha256 {sha256[:12]}..., but the "
                f"parameters were tuned on those of {self.sha256[:12]}...; fetch or "
                "save them again, or pass any_backbone=True to load them all the same"
            )


def model_parts(
    path: str, revision: str | None = None, subfolder: str | None = None
) -> ModelParts:
    """The backbone's folder and the tuned file, if any, that a path stands for.

    Args:
        path: a run's folder, a CLIP's folder, a model's name on the hub, or a name of
            `locate.EMBEDDED`.
        revision: of the hub, beside a name.
        subfolder: of the repository on the hub, beside a name.

    Raises:
        UserError: it is none of these, or the run has not finished.
    """
    run = RunFolder(path)
    if run.path.is_file():
        raise UserError(
            f"{path} is a file; pass the folder of a run or of a CLIP (python -m "
            "vop_jax.convert makes one from a PyTorch file)"
        )
    named = revision is not None or subfolder is not None
    if run.is_run() and not named:
        config = run.read_config()
        if find_method(config["method"]).trained and not run.tuned.is_file():
            raise UserError(f"{run.tuned} is missing; let the run finish first")
        tuned = Path(run.tuned) if run.tuned.is_file() else None
        place = configured_folder(run.read_backbone())
        return ModelParts(place, tuned, run=str(run.path))
    # A folder of such a name takes precedence if it holds a model.
    if path in EMBEDDED and not run.config.is_file() and not named:
        return ModelParts(EMBEDDED[path])
    folder = find_folder(path, revision, subfolder)
    if not folder.exists():
        raise UserError(
            f"{shown(path)} does not exist; pass the folder of a run or of a CLIP, a "
            "model's name on the Hugging Face hub (owner/name), or "
            + " or ".join(map(repr, EMBEDDED))
        )
    config = read_tuned_config(folder)
    if config is not None:
        tuned = check_tuned_file(folder, config)
        sha256 = config["backbone"]["sha256"]
        return ModelParts(backbone_folder(folder, config), tuned, sha256)
    tuned = folder / TUNED
    return ModelParts(folder, tuned if os.path.lexists(tuned) else None)
