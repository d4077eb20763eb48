"""`tuned.safetensors`: what was trained and nothing else, in PyTorch's layouts."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from data_pipelines.errors import UserError
from vop_jax.backbone import RECORDS, layer_count, param_shapes
from vop_jax.conversion import targets_of, to_names, to_tree
from vop_jax.run_folder import write_atomically
from vop_jax.sizes import ClipSize

FORMAT = 1


class Tuned(NamedTuple):
    """What a `tuned.safetensors` holds.

    Attributes:
        leaves: path in the variable tree -> array, of the trained leaves alone.
        metadata: `method`, `num_frames`, `split_layer`, `text_layout`,
            `backbone_sha256`.
    """

    leaves: dict[str, np.ndarray]
    metadata: dict[str, Any]


def prompt_name(path: str) -> str:
    """The file's name of a leaf of the collection `prompts`.

    Both towers keep their prompts in a module `prompts`; the names in it are unique, so
    what stands before it says nothing. Adapters are alike in both, so their tower is
    named: `adapters.vision.attention.down.weight`.
    """
    _, tower, module, *names = path.split("/")
    return ".".join(names if module == "prompts" else [module, tower, *names])


def save_tuned(
    path: Path, leaves: dict[str, np.ndarray], size: ClipSize, metadata: dict[str, Any]
) -> None:
    """Writes the trained leaves.

    Args:
        path: the file.
        leaves: path in the variable tree -> array.
        size: of the backbone.
        metadata: see `Tuned`.
    """
    named = {
        prompt_name(name): np.asarray(value, np.float32)
        for name, value in leaves.items()
        if name.startswith("prompts/")
    }
    changed = {
        name.removeprefix("params/"): np.asarray(value, np.float32)
        for name, value in leaves.items()
        if name.startswith("params/")
    }
    tree = traverse_util.unflatten_dict(changed, sep="/")
    named |= to_names(RECORDS, tree, layer_count(size))
    whole = {"format": FORMAT, **metadata}
    write_atomically(
        path, safetensors.numpy.save(named, metadata={"vop_jax": json.dumps(whole)})
    )


def load_tuned(
    path: Path, size: ClipSize, prompt_paths: list[str], backbone_sha256: str
) -> Tuned:
    """Reads trained leaves for a backbone.

    Args:
        path: the file.
        size: of the backbone.
        prompt_paths: the paths of the model's prompts.
        backbone_sha256: of the backbone the leaves are to be put on.

    Raises:
        UserError: damaged, not of this project, of another format or another backbone.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = read_metadata(path)
            # safe_open is no mapping: its keys come by method only.
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); fetch it again") from None
    wanted = metadata.get("backbone_sha256")
    if wanted is not None and wanted != backbone_sha256:
        raise UserError(
            f"{path} was trained on another backbone (sha256 {wanted[:12]}..., this "
            f"one is {backbone_sha256[:12]}...); give the one it was trained on"
        )
    by_name = {prompt_name(name): name for name in prompt_paths}
    leaves = {by_name[name]: named.pop(name) for name in list(named) if name in by_name}
    if named:
        count = layer_count(size)
        touched = targets_of(RECORDS, named, count)
        shapes = {k: v for k, v in param_shapes(size).items() if k in touched}
        params = to_tree(RECORDS, named, named.__getitem__, shapes, count, str(path))
        flat = traverse_util.flatten_dict(params, sep="/")
        leaves |= {f"params/{name}": value for name, value in flat.items()}
    return Tuned(leaves, metadata)


def read_metadata(path: Path) -> dict[str, Any]:
    """The JSON under the key `vop_jax` of a file's metadata."""
    with safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get("vop_jax")
    if text is None:
        raise UserError(
            f"{path} was not written by vop_jax (no such key in its metadata)"
        )
    metadata = json.loads(text)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {metadata.get('format')}; this version reads {FORMAT}"
        )
    return metadata
