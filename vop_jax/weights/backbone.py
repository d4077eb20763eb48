"""Reads and writes a backbone: a Hugging Face CLIP folder <-> the collection `params`.

The folder (config.json, model.safetensors, tokenizer files) is the only on-disk format
of a backbone in this project.
"""

import contextlib
import hashlib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.param_shapes import param_shapes
from vop_jax.model.clip.sizes import TOWERS, ClipSize, tower_of
from vop_jax.weights.file_names import CONFIG, WEIGHTS
from vop_jax.weights.hugging_face_config import load_size, save_size
from vop_jax.weights.locate import find_folder
from vop_jax.weights.preprocessing import stated_frames
from vop_jax.weights.records import (
    CONVOLUTION,
    FLAT,
    LAYER,
    LINEAR,
    LINEAR_OUT,
    TensorRecord,
    check_names,
    to_names,
    to_tree,
    unwrapped,
)
from vop_jax.weights.tensors import Tensor, open_weights, tensor_of, write_safetensors

# Of the logarithm of the factor on similarities. CLIP's training holds it under ln 100,
# 4.6; from 89 on its exponential is infinite, and from -104 on zero.
_LARGEST_SCALE = 10.0
# Buffers in older files that no model needs.
IGNORED = (
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)


def _norm(source: str, target: str) -> list[TensorRecord]:
    return [
        TensorRecord(f"{source}.weight", f"{target}/scale"),
        TensorRecord(f"{source}.bias", f"{target}/bias"),
    ]


def _layer_records(model: str, tower: str) -> list[TensorRecord]:
    """The records of one tower's layers."""
    source, target = f"{model}.encoder.layers.{LAYER}", f"{tower}/{LAYER}"
    records = [
        *_norm(f"{source}.layer_norm1", f"{target}/ln_1"),
        *_norm(f"{source}.layer_norm2", f"{target}/ln_2"),
    ]
    for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value")):
        name, path = f"{source}.self_attn.{theirs}_proj", f"{target}/attention/{ours}"
        records.append(TensorRecord(f"{name}.weight", f"{path}/kernel", LINEAR))
        records.append(TensorRecord(f"{name}.bias", f"{path}/bias", FLAT))
    name, path = f"{source}.self_attn.out_proj", f"{target}/attention/out"
    records.append(TensorRecord(f"{name}.weight", f"{path}/kernel", LINEAR_OUT))
    records.append(TensorRecord(f"{name}.bias", f"{path}/bias"))
    for theirs, ours in (("fc1", "fc_1"), ("fc2", "fc_2")):
        name, path = f"{source}.mlp.{theirs}", f"{target}/mlp/{ours}"
        records.append(TensorRecord(f"{name}.weight", f"{path}/kernel", LINEAR))
        records.append(TensorRecord(f"{name}.bias", f"{path}/bias"))
    return records


RECORDS = (
    TensorRecord("logit_scale", "logit_scale"),
    TensorRecord("vision_model.embeddings.class_embedding", "vision/class_embedding"),
    TensorRecord(
        "vision_model.embeddings.patch_embedding.weight",
        "vision/patch_embedding",
        CONVOLUTION,
    ),
    TensorRecord(
        "vision_model.embeddings.position_embedding.weight", "vision/position_embedding"
    ),
    # The misspelling is the published name.
    *_norm("vision_model.pre_layrnorm", "vision/ln_pre"),
    *_layer_records("vision_model", "vision"),
    *_norm("vision_model.post_layernorm", "vision/ln_post"),
    TensorRecord("visual_projection.weight", "vision/projection", LINEAR),
    TensorRecord(
        "text_model.embeddings.token_embedding.weight", "text/token_embedding"
    ),
    TensorRecord(
        "text_model.embeddings.position_embedding.weight", "text/position_embedding"
    ),
    *_layer_records("text_model", "text"),
    *_norm("text_model.final_layer_norm", "text/ln_final"),
    TensorRecord("text_projection.weight", "text/projection", LINEAR),
)


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


def layer_count(size: ClipSize) -> Callable[[TensorRecord], int]:
    """The number of layers of the tower that a record belongs to."""

    def count(record: TensorRecord) -> int:
        tower = size.vision if record.target.startswith("vision") else size.text
        return tower.layers

    return count


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
        tensors = unwrapped(weights.tensors, str(weights.path))
        named = {k: x for k, x in tensors.items() if k not in IGNORED}
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
    """Makes sure that the exponential of `logit_scale` is a factor that can be used.

    Args:
        tensors: under Hugging Face's names; without that one nothing is looked at.
        where: what to call the weights in an error.

    Raises:
        UserError: it is not one number, or none that a CLIP has.
    """
    if "logit_scale" not in tensors:
        return
    scale = tensors["logit_scale"]
    if math.prod(scale.shape) != 1:
        raise UserError(
            f"{where}: logit_scale has shape {list(scale.shape)}; it must be one number"
        )
    value = float(np.asarray(scale.read(), np.float32).reshape(()))
    if not abs(value) <= _LARGEST_SCALE:
        raise UserError(
            f"{where}: logit_scale is {value:g}; it must be between "
            f"{-_LARGEST_SCALE:g} and {_LARGEST_SCALE:g}, CLIP's own are near 4.6"
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
            1 + size.patches,
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
    write_safetensors(Path(folder) / WEIGHTS, tensors, dtype)
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
