"""Resolves a model's path: a run, a CLIP's folder, an embedded one, a hub name."""

import os
from pathlib import Path

from data_pipelines.console.errors import UserError
from vop_jax.model.methods import find_method
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.surface.inputs import shown
from vop_jax.weights.file_names import TUNED
from vop_jax.weights.locate import EMBEDDED, configured_folder, find_folder


def model_parts(path: str) -> tuple[Path, Path | None]:
    """The backbone's folder and the tuned file, if any, that a path stands for.

    Args:
        path: a run's folder, a CLIP's folder, a model's name on the hub, or a name of
            `locate.EMBEDDED`.

    Raises:
        UserError: it is none of these, or the run has not finished.
    """
    run = RunFolder(path)
    if run.path.is_file():
        raise UserError(
            f"{path} is a file; pass the folder of a run or of a CLIP (python -m "
            "vop_jax.convert makes one from a PyTorch file)"
        )
    if run.is_run():
        config = run.read_config()
        if find_method(config["method"]).trained and not run.tuned.is_file():
            raise UserError(f"{run.tuned} is missing; let the run finish first")
        tuned = Path(run.tuned) if run.tuned.is_file() else None
        return configured_folder(run.read_backbone()), tuned
    # A folder of such a name takes precedence if it holds a model.
    if path in EMBEDDED and not run.config.is_file():
        return EMBEDDED[path], None
    folder = find_folder(path)
    if not folder.exists():
        raise UserError(
            f"{shown(path)} does not exist; pass the folder of a run or of a CLIP, a "
            "model's name on the Hugging Face hub (owner/name), or "
            + " or ".join(map(repr, EMBEDDED))
        )
    return folder, folder / TUNED if os.path.lexists(folder / TUNED) else None
