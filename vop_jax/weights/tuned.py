"""`tuned.safetensors`: the trained parameters alone, in PyTorch's layouts."""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from etils import epath
from flax import traverse_util

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.param_shapes import param_shapes
from vop_jax.model.clip.sizes import TOWERS, ClipSize
from vop_jax.model.methods import find_method
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import added_shapes
from vop_jax.runtime.files import write_atomically
from vop_jax.weights.backbone import check_scale
from vop_jax.weights.backbone_records import RECORDS, layer_count
from vop_jax.weights.records import targets_of, to_names, to_tree
from vop_jax.weights.tensors import open_safetensors, tensor_of
from vop_jax.weights.tuned_metadata import FORMAT, checked_metadata
from vop_jax.weights.tuned_prompts import misfit_of, prompt_config

# What training alone needs may be taken out of a file.
_OPTIONAL = ("fusion.text.",)


class Tuned(NamedTuple):
    """The content of a `tuned.safetensors`.

    Attributes:
        leaves: path in the variable tree -> array, of the trained leaves alone.
        metadata: `method`, `num_frames`, `split_layer`, `text_layout`,
            `backbone_sha256`; if they differ from the defaults also `first_layer`,
            `cmm_role`, `lora_parts`, `renormalize_video`, how many tokens are merged,
            and the counts of `COUNTS`; in a file also `tensors`, the number of those
            that a model needs.
        prompts: the prompt configuration.
    """

    leaves: dict[str, np.ndarray]
    metadata: dict[str, Any]
    prompts: PromptConfig


def prompt_name(path: str) -> str:
    """The name in the file of a leaf of the collection `prompts`.

    Both towers have a module `prompts` whose names are unique, so the path before it is
    dropped. Adapters and LoRA have the same names in both towers, so their tower is
    part of the name: `adapters.vision.attention.down.weight`, `lora.text.A`. Fusion
    without a tower is that of the vision tower: `fusion.down.weight`; so is merging,
    which is of that tower alone. What both towers share has its own names alone:
    `latent`, `adapters.shared`.
    """
    _, tower, *names = path.split("/")
    if tower not in TOWERS:
        return ".".join(names)
    module, *names = names
    before = {
        ("vision", "prompts"): [],
        ("text", "prompts"): [],
        ("vision", "fusion"): [module],
        ("vision", "merge"): [module],
    }
    return ".".join([*before.get((tower, module), [module, tower]), *names])


def save_tuned(
    path: Path | epath.Path,
    leaves: dict[str, np.ndarray],
    size: ClipSize,
    metadata: dict[str, Any],
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
    write_tuned(path, named, metadata)


def write_tuned(
    path: Path | epath.Path, named: Mapping[str, np.ndarray], metadata: dict[str, Any]
) -> None:
    """Writes trained parameters under the file's own names; see `Tuned`."""
    text = json.dumps({"format": FORMAT, **metadata, "tensors": _needed(named)})
    arrays = {name: np.ascontiguousarray(x, np.float32) for name, x in named.items()}
    write_atomically(path, safetensors.numpy.save(arrays, metadata={"vop_jax": text}))


def load_tuned(path: Path, size: ClipSize, backbone_sha256: str | None) -> Tuned:
    """Reads trained leaves for a backbone.

    Args:
        path: the file.
        size: of the backbone.
        backbone_sha256: of the backbone that the leaves are loaded onto; None accepts
            leaves that were trained on any.

    Raises:
        UserError: damaged, not written by this project, or of another format or
            backbone.
    """
    named, metadata = read_tuned(path)
    found = _needed(named)
    wanted = metadata["backbone_sha256"]
    if None not in (wanted, backbone_sha256) and wanted != backbone_sha256:
        raise UserError(
            f"{path} was trained on another backbone (sha256 {wanted[:12]}..., this "
            f"one is {str(backbone_sha256)[:12]}...); use the one it was trained on, "
            "or pass any_backbone=True to load it all the same"
        )
    _check_layers(metadata, size, str(path))
    shapes = {name: value.shape for name, value in named.items()}
    prompts = prompt_config(shapes, metadata, size, str(path))
    leaves = take_prompts(named, size, prompts, str(path))
    if named:
        count = layer_count(size)
        touched = targets_of(RECORDS, named, count)
        shapes = {k: v for k, v in param_shapes(size).items() if k in touched}
        tensors = {name: tensor_of(value) for name, value in named.items()}
        check_scale(tensors, str(path))
        params = to_tree(RECORDS, tensors, shapes, count, str(path))
        flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
        leaves |= {f"params/{name}": value for name, value in flat.items()}
    name = metadata["method"]
    if leaves and not find_method(name).trains_some(leaves, prompts):
        raise UserError(
            f"{path}: its vop_jax metadata: method is {name}, which trains none of its "
            "tensors; fetch or export it again"
        )
    # A part that is missing as a whole is not missed by any other.
    if metadata.get("tensors", found) != found:
        raise UserError(
            f"{path}: the number of its tensors is {found}, but its metadata states "
            f"{metadata['tensors']}; fetch or export it again"
        )
    return Tuned(leaves, metadata, prompts)


def _needed(named: Iterable[str]) -> int:
    """How many of a file's tensors a model cannot do without."""
    return sum(not name.startswith(_OPTIONAL) for name in named)


def take_prompts(
    named: dict[str, Any],
    size: ClipSize,
    prompts: PromptConfig,
    where: str,
    origins: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Removes the added parameters from `named` and returns them by path.

    Args:
        named: anything that has a shape, by its name in the file.
        size: of the backbone.
        prompts: which parameters are added to it.
        where: names the file in an error.
        origins: see `prompt_config`.

    Raises:
        UserError: one is missing, or does not fit the backbone.
    """
    leaves = {}
    for path, shape in added_shapes(size, prompts).items():
        name = prompt_name(path)
        if name not in named:
            raise UserError(f"{where}: {name} is missing; fetch or export it again")
        value = leaves[path] = named.pop(name)
        if value.shape != shape:
            reason = f"this backbone's is {list(shape)}"
            misfit = misfit_of(name, value.shape, reason, origins or {})
            raise UserError(f"{where}: {misfit}")
    return leaves


def _check_layers(metadata: dict[str, Any], size: ClipSize, where: str) -> None:
    """Checks that the backbone has the layers that the metadata states."""
    most = {
        "split_layer": size.vision.layers,
        "first_layer": max(size.vision.layers, size.text.layers),
    }
    for key, layers in most.items():
        if metadata.get(key, 0) > layers:
            raise UserError(
                f"{where}: its vop_jax metadata: {key} is {metadata[key]}, but this "
                f"backbone has {layers} layers; use the backbone it was trained on"
            )


def read_tuned(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads the named tensors of a file and its validated metadata.

    Raises:
        UserError: missing, damaged, or not of this project or format.
    """
    if not path.exists():
        raise UserError(f"{path} is missing")
    with ExitStack() as stack:
        tensors, stated = open_safetensors(path, stack)
        metadata = checked_metadata(path, stated.get("vop_jax"))
        return {name: tensor.read() for name, tensor in tensors.items()}, metadata
