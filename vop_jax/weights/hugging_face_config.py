"""Reads and writes the `config.json` of models of transformers, with limits on values.

Hugging Face's own reader is not used: it imports PyTorch if it is installed, and
allocates whatever the file states, however large.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from annotated_types import Ge, Gt, Le
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, shown
from vop_jax.model.clip.sizes import ClipSize, TextSize, TowerSize, VisionSize
from vop_jax.weights.families import FAMILIES

T = TypeVar("T", bound="Tower")
# Hugging Face's names of activations -> `layers.ACTIVATIONS`.
_ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
}
Width = Annotated[int, Ge(1), Le(16_384)]
Side = Annotated[int, Ge(1), Le(4_096)]
# At least 2: the last layer is stored apart from the stacked others.
Layers = Annotated[int, Ge(2), Le(1_024)]
Heads = Annotated[int, Ge(1), Le(1_024)]
Mlp = Annotated[int, Ge(1), Le(131_072)]
Epsilon = Annotated[float, Gt(0), Le(0.1)]
Ids = Annotated[int, Ge(3), Le(2**21)]
Positions = Annotated[int, Ge(3), Le(65_536)]


class Tower(TypedDict):
    """The fields that both towers have."""

    hidden_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Heads
    intermediate_size: Mlp
    hidden_act: Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"]
    layer_norm_eps: Epsilon


class Vision(Tower):
    """The `vision_config`."""

    image_size: Side
    patch_size: Side
    num_channels: Literal[3]
    vision_use_head: NotRequired[Literal[True]]


class Text(Tower):
    """The `text_config`."""

    vocab_size: Ids
    max_position_embeddings: Positions
    eos_token_id: Annotated[int, Ge(0)]
    # Of SigLIP; by default its width.
    projection_size: NotRequired[Width | None]


class Whole(TypedDict):
    """The file itself."""

    projection_dim: Width


@dataclasses.dataclass(frozen=True)
class _Form:
    """A `model_type` of transformers.

    Attributes:
        kind: of model, for messages.
        vision: defaults of missing keys of `vision_config`, as transformers has them.
        text: the same of `text_config`.
        class_name: transformers' class.
        vision_fields: of `VisionSize`, for every such model.
        text_fields: of `TextSize`.
        size_fields: of `ClipSize`.
        pooled: whether the vision tower pools by attention with heads of its own.
        partial_patches: whether pixels may be left over beside the patches.
    """

    kind: str
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    class_name: str
    vision_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    text_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    size_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pooled: bool = False
    partial_patches: bool = False


# Those of ViT-B/32, and of SigLIP's B/16.
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
_SIGLIP_TOWER = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
FORMS = {
    "clip": _Form("a CLIP", _VISION, _TEXT, "CLIP"),
    "metaclip_2": _Form("a MetaCLIP 2", _VISION, _TEXT, "MetaClip2"),
    "siglip": _Form(
        "a SigLIP",
        _VISION | _SIGLIP_TOWER | {"patch_size": 16, "vision_use_head": True},
        _TEXT
        | _SIGLIP_TOWER
        | {
            "hidden_size": 768,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "vocab_size": 32_000,
            "max_position_embeddings": 64,
            "projection_size": None,
        },
        "Siglip",
        vision_fields={
            "projection": "none",
            "class_token": False,
            "patch_bias": True,
            "pre_norm": False,
        },
        text_fields={"projection": "biased", "causal": False, "reads": "last"},
        size_fields={"loss": "sigmoid"},
        pooled=True,
        partial_patches=True,
    ),
}
# Most patches of a frame.
MOST_PATCHES = 65_536


def read_transformers(values: dict[str, Any], model_type: str, path: str) -> ClipSize:
    """The description in a `config.json`, with `eos_id` as stated there.

    Args:
        values: the file.
        model_type: a key of `FORMS`.
        path: of the file, for messages.

    Returns:
        A model of the first family of that type.

    Raises:
        UserError: it does not describe such a model.
    """
    form = FORMS[model_type]
    where = f"{path} does not describe {form.kind}"
    whole = described({"projection_dim": 512} | values, Whole, where)
    vision = _tower(values, "vision_config", form.vision, Vision, where)
    text = _tower(values, "text_config", form.text, Text, where)
    image, patch = vision["image_size"], vision["patch_size"]
    fits = form.partial_patches or not image % patch
    if not fits or patch > image or (image // patch) ** 2 > MOST_PATCHES:
        raise UserError(
            f"{where}: vision_config.patch_size is {patch}; it must divide the "
            f"image_size of {image} into at most {MOST_PATCHES:,} patches"
        )
    family = next(k for k, x in FAMILIES.items() if x.model_type == model_type)
    usual = FAMILIES[family]
    vocabulary, eos = text["vocab_size"], text["eos_token_id"]
    if usual.texts.end is not None:
        eos = usual.texts.end
    if eos >= vocabulary:
        raise UserError(
            f"{where}: text_config.eos_token_id is {eos}; it must be less than the "
            f"vocab_size of {vocabulary}"
        )
    embedding = whole["projection_dim"]
    if form.pooled:
        # The text tower projects to what the vision tower pools.
        embedding = text.get("projection_size") or text["hidden_size"]
        if embedding != vision["hidden_size"]:
            raise UserError(
                f"{where}: text_config.projection_size is {embedding}; it must be the "
                f"vision tower's hidden_size of {vision['hidden_size']}"
            )
    heads = vision["num_attention_heads"] if form.pooled else 0
    fields = dict(form.vision_fields)
    return ClipSize(
        vision=VisionSize(**_tower_size(vision), **fields, pooling_heads=heads),
        text=TextSize(**_tower_size(text), **form.text_fields),
        image_size=image,
        patch_size=patch,
        vocabulary=vocabulary,
        context_length=text["max_position_embeddings"],
        embedding=embedding,
        eos_id=eos,
        frames=usual.frames,
        family=family,
        **form.size_fields,
    )


def _tower(
    values: dict[str, Any],
    name: str,
    defaults: Mapping[str, Any],
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
    tower = described({**defaults, **stated}, description, place)
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
        "activation": _ACTIVATIONS[tower["hidden_act"]],
        "epsilon": tower["layer_norm_eps"],
    }


def write_transformers(size: ClipSize, model_type: str) -> dict[str, Any]:
    """The content of a `config.json`.

    It holds what the towers' shapes and functions depend on; every other field of
    transformers' class has its default.

    Args:
        size: the description.
        model_type: a key of `FORMS`.
    """
    form, texts = FORMS[model_type], FAMILIES[size.family].texts
    text = {
        "model_type": f"{model_type}_text_model",
        **_stored_tower(size.text),
        "vocab_size": size.vocabulary,
        "max_position_embeddings": size.context_length,
        "eos_token_id": size.eos_id,
    }
    vision = {
        "model_type": f"{model_type}_vision_model",
        **_stored_tower(size.vision),
        "image_size": size.image_size,
        "patch_size": size.patch_size,
        "num_channels": 3,
    }
    values: dict[str, Any] = {
        "architectures": [f"{form.class_name}Model"],
        "model_type": model_type,
    }
    if texts.consecutive:
        text |= {"bos_token_id": size.eos_id - 1, "pad_token_id": 0}
    if form.pooled:
        text["projection_size"] = size.embedding
        vision["vision_use_head"] = True
    else:
        values["projection_dim"] = size.embedding
        text["projection_dim"] = vision["projection_dim"] = size.embedding
    return {**values, "vision_config": vision, "text_config": text}


def _stored_tower(size: TowerSize) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    return {
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.mlp,
        # A name that transformers lacks is not read back, and so is not written.
        "hidden_act": names.get(size.activation, size.activation),
        "layer_norm_eps": size.epsilon,
    }
