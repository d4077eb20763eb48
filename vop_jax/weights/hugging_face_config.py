"""Reads and writes the `config.json` of a Hugging Face CLIP, with limits on values.

Hugging Face's own reader is not used: it imports PyTorch if it is installed, and
allocates whatever the file states, however large.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, read_json, shown
from vop_jax.model.clip.sizes import ClipSize, TextSize, TowerSize, VisionSize
from vop_jax.runtime.files import write_atomically
from vop_jax.weights.file_names import CONFIG, WEIGHTS
from vop_jax.weights.preprocessing import stated_frames
from vop_jax.weights.special_tokens import end_token

T = TypeVar("T", bound="Tower")


class Tower(TypedDict):
    """The fields that both towers have."""

    hidden_size: Annotated[int, Ge(1), Le(16_384)]
    # At least 2: the last layer is stored apart from the stacked others.
    num_hidden_layers: Annotated[int, Ge(2), Le(1_024)]
    num_attention_heads: Annotated[int, Ge(1), Le(1_024)]
    intermediate_size: Annotated[int, Ge(1), Le(131_072)]
    hidden_act: Literal["quick_gelu", "gelu"]
    layer_norm_eps: Annotated[float, Gt(0), Le(0.1)]


class Vision(Tower):
    """The `vision_config`."""

    image_size: Annotated[int, Ge(1), Le(4_096)]
    patch_size: Annotated[int, Ge(1), Le(4_096)]
    num_channels: Literal[3]


class Text(Tower):
    """The `text_config`."""

    vocab_size: Annotated[int, Ge(3), Le(2**21)]
    max_position_embeddings: Annotated[int, Ge(3), Le(65_536)]
    eos_token_id: Annotated[int, Ge(0)]


class Clip(TypedDict):
    """The file itself."""

    model_type: Literal["clip"]
    projection_dim: Annotated[int, Ge(1), Le(16_384)]


# Defaults of missing keys, as Hugging Face documents them: those of ViT-B/32.
_TOWER = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
_VISION = _TOWER | {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
}
_TEXT = _TOWER | {
    "hidden_size": 512,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_CLIP = {"model_type": "clip", "projection_dim": 512}
# Most patches of a frame.
_MOST_PATCHES = 65_536


def read_size(path: Path) -> ClipSize:
    """Reads the sizes of a CLIP from `config.json`, with `eos_id` as stated there.

    Raises:
        UserError: it cannot be read, or does not describe a CLIP.
    """
    values = read_json(path)
    where = f"{path} does not describe a CLIP"
    if not isinstance(values, dict):
        raise UserError(f"{where}: it is {shown(values)}, not an object")
    towers = ("vision_config", "text_config", "vision_config_dict", "text_config_dict")
    if "model_type" not in values and not any(name in values for name in towers):
        raise UserError(f"{where}: it has neither a model_type nor a vision_config")
    clip = described(_CLIP | values, Clip, where)
    vision = _tower(values, "vision_config", _VISION, Vision, where)
    text = _tower(values, "text_config", _TEXT, Text, where)
    image, patch = vision["image_size"], vision["patch_size"]
    if image % patch or (image // patch) ** 2 > _MOST_PATCHES:
        raise UserError(
            f"{where}: vision_config.patch_size is {patch}; it must divide the "
            f"image_size of {image} into at most {_MOST_PATCHES:,} patches"
        )
    vocabulary, eos = text["vocab_size"], text["eos_token_id"]
    if eos >= vocabulary:
        raise UserError(
            f"{where}: text_config.eos_token_id is {eos}; it must be less than the "
            f"vocab_size of {vocabulary}"
        )
    return ClipSize(
        vision=VisionSize(**_tower_size(vision)),
        text=TextSize(**_tower_size(text)),
        image_size=image,
        patch_size=patch,
        vocabulary=vocabulary,
        context_length=text["max_position_embeddings"],
        embedding=clip["projection_dim"],
        eos_id=eos,
    )


def load_size(folder: Path) -> ClipSize:
    """Reads the sizes of a CLIP from config.json, and its EOT id with the tokenizer.

    Raises:
        UserError: the file is missing, not a CLIP's, or the EOT token is unknown.
    """
    path = folder / CONFIG
    if not os.path.lexists(path):
        raise UserError(
            f"{path} is missing; use a Hugging Face CLIP folder (with {WEIGHTS})"
        )
    size = read_size(path)
    end = end_token(folder, size.vocabulary, size.eos_id, str(folder))
    frames = stated_frames(folder, size.image_size, size.frames)
    return dataclasses.replace(size, eos_id=end, frames=frames)


def _tower(
    values: dict[str, Any],
    name: str,
    defaults: dict[str, Any],
    description: type[T],
    where: str,
) -> T:
    """Reads one tower's part of the file."""
    # Files up to 2022 have the second key, which then takes precedence.
    given = values.get(name), values.get(f"{name}_dict")
    for part in given:
        if part is not None and not isinstance(part, dict):
            raise UserError(f"{where}: {name} is {shown(part)}; it must be an object")
    stated = given[0] or {} if given[1] is None else given[1]
    place = f"{where}: {name}"
    tower = described(defaults | stated, description, place)
    if tower["hidden_size"] % tower["num_attention_heads"]:
        raise UserError(
            f"{place}.num_attention_heads is {tower['num_attention_heads']}; it must "
            f"divide the hidden_size of {tower['hidden_size']}"
        )
    return tower


def _tower_size(tower: Tower) -> dict[str, Any]:
    return {
        "width": tower["hidden_size"],
        "layers": tower["num_hidden_layers"],
        "heads": tower["num_attention_heads"],
        "mlp": tower["intermediate_size"],
        "activation": tower["hidden_act"],
        "epsilon": tower["layer_norm_eps"],
    }


def save_size(folder: Path, size: ClipSize) -> None:
    """Writes the config.json of a Hugging Face CLIP folder.

    It holds what the towers' shapes and functions depend on; every other field of
    Hugging Face's `CLIPConfig` has its default.
    """
    values = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": size.embedding,
        "vision_config": {
            "model_type": "clip_vision_model",
            **_stored_tower(size.vision, size.embedding),
            "image_size": size.image_size,
            "patch_size": size.patch_size,
            "num_channels": 3,
        },
        "text_config": {
            "model_type": "clip_text_model",
            **_stored_tower(size.text, size.embedding),
            "vocab_size": size.vocabulary,
            "max_position_embeddings": size.context_length,
            "bos_token_id": size.eos_id - 1,
            "eos_token_id": size.eos_id,
            "pad_token_id": 0,
        },
    }
    write_atomically(folder / CONFIG, json.dumps(values, indent=2) + "\n")


def _stored_tower(size: TowerSize, embedding: int) -> dict[str, int | float | str]:
    return {
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.mlp,
        "hidden_act": size.activation,
        "layer_norm_eps": size.epsilon,
        "projection_dim": embedding,
    }
