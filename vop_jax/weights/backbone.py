"""Reads and writes a backbone: a Hugging Face CLIP folder <-> the collection `params`.

The folder (config.json, model.safetensors, tokenizer files) is the only on-disk format
of a backbone in this project.
"""

import contextlib
import hashlib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.param_shapes import param_shapes
from vop_jax.model.clip.sizes import TOWERS, ClipSize, tower_of
from vop_jax.weights.backbone_records import RECORDS, layer_count
from vop_jax.weights.clip_names import recognise, stored_names
from vop_jax.weights.config_file import load_size, save_size
from vop_jax.weights.file_names import CONFIG, WEIGHTS
from vop_jax.weights.locate import find_folder
from vop_jax.weights.preprocessing import stated_frames
from vop_jax.weights.records import check_names, to_names, to_tree
from vop_jax.weights.tensors import Tensor, open_weights, tensor_of, write_safetensors

# Of the logarithm of the factor on similarities. CLIP's training holds it under ln 100,
# 4.6; from 89 on its exponential is infinite, and from -104 on zero.
_LARGEST = {
    "logit_scale": (10.0, "CLIP's own are near 4.6"),
    "logit_bias": (1_000.0, "SigLIP's own are near -16"),
}


class Backbone(NamedTuple):
    """A backbone in memory.

    Attributes:
        size: its sizes.
        params: the collection `params`, float32 numpy arrays, of the towers read.
        sha256: of the folder's model.safetensors.
        folder: the folder it was read from.
    """

    size: ClipSize
    params: dict[str, Any]
    sha256: str
    folder: Path

    def __repr__(self) -> str:
        """Without the weights, which would be megabytes of digits."""
        size = f"image_size={self.size.image_size}, embedding={self.size.embedding}"
        return f"Backbone({str(self.folder)!r}, {size})"


def load_backbone(folder: str | Path, towers: Collection[str] = TOWERS) -> Backbone:
    """Reads a Hugging Face CLIP folder, or downloads it from the hub by its name.

    Args:
        folder: a path, or a name on the hub.
        towers: those whose weights are read; the others are checked by name and shape.

    Raises:
        UserError: the folder or a file is missing, it is not a supported CLIP, or it
            was trained with another preprocessing.
    """
    folder = find_folder(folder)
    size = load_size(folder)
    stated_frames(folder, size.image_size, size.frames, warned=True)
    with contextlib.ExitStack() as stack:
        weights = open_weights(folder, stack)
        model = recognise(weights.tensors, str(weights.path))
        named = model.clip
        if not model.stated:
            raise UserError(
                f"{weights.path} has another format than {CONFIG} beside it states "
                f"({model.format}); convert it first: python -m vop_jax.convert "
                f"--input={folder} --output=FOLDER"
            )
        check_header(size, named, str(weights.path))
        shapes, count = param_shapes(size), layer_count(size)
        params = to_tree(
            *(RECORDS, named, shapes, count, str(weights.path)),
            wanted=lambda path: tower_of(path) in (None, *towers),
        )
    return Backbone(size, params, weights_sha256(weights.files), folder)


def check_header(size: ClipSize, tensors: Mapping[str, Tensor], where: str) -> None:
    """Checks stated sizes against the weights, before anything is allocated.

    Args:
        size: as config.json states it.
        tensors: under Hugging Face's names; an absent one is not checked.
        where: names the weights in an error.

    Raises:
        UserError: a number of layers or a shape differs, or the scale is none.
    """
    check_scale(tensors, where)
    for tower in ("vision", "text"):
        layer = re.compile(rf"{tower}_model\.encoder\.layers\.(\d+)\.")
        held = len({found[1] for name in tensors if (found := layer.match(name))})
        stated = size.tower(tower).layers
        if held and held != stated:
            raise UserError(
                f"{where} holds {held} layers of the {tower} tower, and its config "
                f"states {stated}; is {CONFIG} the one of this file?"
            )
    for name, shape in _stated_shapes(size).items():
        if name in tensors and tensors[name].shape != shape:
            raise UserError(
                f"{where}: {name} has shape {list(tensors[name].shape)}, and its "
                f"config states {list(shape)}; is {CONFIG} the one of this file?"
            )


def check_scale(tensors: Mapping[str, Tensor], where: str) -> None:
    """Makes sure that `logit_scale` and `logit_bias` are such as a model has.

    Args:
        tensors: under Hugging Face's names; without that one nothing is looked at.
        where: what to call the weights in an error.

    Raises:
        UserError: it is not one number, or none that a CLIP has.
    """
    for name, (most, usual) in _LARGEST.items():
        if name not in tensors:
            continue
        number = tensors[name]
        if math.prod(number.shape) != 1:
            raise UserError(
                f"{where}: {name} has shape {list(number.shape)}; it must be one number"
            )
        value = float(np.asarray(number.read(), np.float32).reshape(()))
        if not abs(value) <= most:
            raise UserError(
                f"{where}: {name} is {value:g}; it must be between {-most:g} and "
                f"{most:g}, {usual}"
            )


def _stated_shapes(size: ClipSize) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors that together determine every size."""
    vision, text, patch = size.vision, size.text, size.patch_size
    first = "encoder.layers.0.mlp.fc1.weight"
    return {
        "vision_model.embeddings.patch_embedding.weight": (
            *(vision.width, 3),
            *(patch, patch),
        ),
        "vision_model.embeddings.position_embedding.weight": (
            size.tokens,
            vision.width,
        ),
        f"vision_model.{first}": (vision.mlp, vision.width),
        "visual_projection.weight": (size.embedding, vision.width),
        "text_model.embeddings.token_embedding.weight": (size.vocabulary, text.width),
        "text_model.embeddings.position_embedding.weight": (
            size.context_length,
            text.width,
        ),
        f"text_model.{first}": (text.mlp, text.width),
        "text_projection.weight": (size.embedding, text.width),
    }


def check_clip(size: ClipSize, tensors: Mapping[str, Tensor], where: str) -> None:
    """Checks that tensors under Hugging Face's names are a CLIP of these sizes.

    Raises:
        UserError: a tensor is missing, unexpected, or of another shape.
    """
    check_header(size, tensors, where)
    check_names(RECORDS, tensors, param_shapes(size), layer_count(size), where)


def save_backbone(
    folder: str | Path, size: ClipSize, params: Any, dtype: str = "F32"
) -> None:
    """Writes config.json and model.safetensors of a Hugging Face CLIP folder."""
    paths = traverse_util.flatten_dict(dict(params), sep="/").keys()
    if paths != param_shapes(size).keys():
        raise ValueError("the parameters are not those of the size")
    named = to_names(RECORDS, params, layer_count(size))
    tensors = {name: tensor_of(value) for name, value in named.items()}
    stored = stored_names(size.family, tensors)
    write_safetensors(Path(folder) / WEIGHTS, stored, dtype)
    save_size(Path(folder), size)


def weights_sha256(files: Sequence[Path]) -> str:
    """The SHA-256 of a model's weights: of its file, or of its files' hashes."""
    digests = [file_sha256(file) for file in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, as a hexadecimal string."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
