"""Resolves a model's path: a run, a CLIP's folder, the demo's, a name on the hub."""

import os
from pathlib import Path

from data_pipelines.console.errors import UserError
from vop_jax.model.methods import find_method
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.surface.inputs import shown
from vop_jax.weights.file_names import TUNED
from vop_jax.weights.locate import BACKBONE, find_folder


def model_parts(path: str) -> tuple[Path, Path | None]:
    """The backbone's folder and the tuned file, if any, that a path stands for.

    Args:
        path: a run's folder, a CLIP's folder, a model's name on the hub, or `demo`.

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
        named = run.read_backbone()
        backbone = BACKBONE if named == "demo" else named
        tuned = Path(run.tuned) if run.tuned.is_file() else None
        return find_folder(backbone), tuned
    # A folder called `demo` takes precedence if it holds a model.
    if path == "demo" and not run.config.is_file():
        return BACKBONE, None
    folder = find_folder(path)
    if not folder.exists():
        raise UserError(
            f"{shown(path)} does not exist; pass the folder of a run or of a CLIP, a "
            "model's name on the Hugging Face hub (owner/name), or 'demo'"
        )
    return folder, folder / TUNED if os.path.lexists(folder / TUNED) else None
