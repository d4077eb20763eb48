"""The `config.json` of a model that transformers has no class for.

It states a `ClipSize` field by field, under a `model_type` of this project.
"""

import dataclasses
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described
from vop_jax.model.clip.sizes import (
    PROJECTIONS,
    ClipSize,
    Rotary,
    TextSize,
    VisionSize,
)
from vop_jax.weights.families import FAMILIES, OWN_TYPE
from vop_jax.weights.hugging_face_config import (
    MOST_PATCHES,
    Epsilon,
    Heads,
    Ids,
    Layers,
    Mlp,
    Positions,
    Side,
    Width,
)

_TOWERS = ("vision", "text")
_Activation = Literal["quick_gelu", "gelu", "gelu_tanh", "silu"]


class RotaryFields(TypedDict):
    """The fields of `Rotary`."""

    order: Literal["ij", "xy"]
    offset: Annotated[float, Ge(-1_000), Le(1_000)]
    grid: Annotated[int, Ge(0), Le(4_096)]
    temperature: Annotated[float, Ge(1), Le(1e9)]


class TowerFields(TypedDict):
    """The fields of `TowerSize`."""

    width: Width
    layers: Layers
    heads: Heads
    mlp: Mlp
    activation: _Activation
    epsilon: Epsilon
    gated: bool
    attention_norm: bool
    key_bias: bool
    projection: Literal["linear", "biased", "none"]


class VisionFields(TowerFields):
    """The fields of `VisionSize`."""

    class_token: bool
    patch_bias: bool
    pre_norm: bool
    rotary: RotaryFields | None
    pooling_heads: Annotated[int, Ge(0), Le(1_024)]
    pooling_mlp: Annotated[int, Ge(0), Le(131_072)]


class TextFields(TowerFields):
    """The fields of `TextSize`."""

    causal: bool
    reads: Literal["end", "last"]


class Own(TypedDict):
    """The file; the frames are in `preprocessor_config.json`."""

    vision: VisionFields
    text: TextFields
    image_size: Side
    patch_size: Side
    vocabulary: Ids
    context_length: Positions
    embedding: Width
    eos_id: Annotated[int, Ge(0)]
    family: str
    loss: Literal["softmax", "sigmoid"]


def read_own(values: dict[str, Any], path: str) -> ClipSize:
    """The description in a `config.json` of this project.

    Args:
        values: the file.
        path: of the file, for messages.

    Raises:
        UserError: a field is missing or out of range, or two do not fit together.
    """
    where = f"{path} does not describe a backbone"
    own = described(values, Own, where)
    if own["family"] not in FAMILIES:
        raise UserError(f"{where}: family is not one of {', '.join(FAMILIES)}")
    vision, text = own["vision"], own["text"]
    pairs = [
        ("vision.heads", vision["heads"], vision["width"]),
        ("text.heads", text["heads"], text["width"]),
        ("vision.pooling_heads", vision["pooling_heads"], vision["width"]),
    ]
    for name, part, width in pairs:
        if part and width % part:
            raise UserError(
                f"{where}: {name} is {part}; it must divide the width of {width}"
            )
    rotary = vision["rotary"]
    if rotary and vision["width"] // vision["heads"] % 4:
        raise UserError(
            f"{where}: vision.heads is {vision['heads']}; with rotary positions the "
            "width of a head must be a multiple of 4"
        )
    if not (vision["class_token"] or vision["pooling_heads"]):
        raise UserError(
            f"{where}: the vision tower has neither class_token nor pooling_heads"
        )
    for name, tower in (("vision", vision), ("text", text)):
        bare = not PROJECTIONS[tower["projection"]]
        if bare and tower["width"] != own["embedding"]:
            raise UserError(
                f"{where}: {name}.width is {tower['width']}; without a projection it "
                f"must be the embedding of {own['embedding']}"
            )
    image, patch = own["image_size"], own["patch_size"]
    if patch > image or (image // patch) ** 2 > MOST_PATCHES:
        raise UserError(
            f"{where}: patch_size is {patch}; it must divide the image_size of {image} "
            f"into 1 to {MOST_PATCHES:,} patches"
        )
    if own["eos_id"] >= own["vocabulary"]:
        raise UserError(
            f"{where}: eos_id is {own['eos_id']}; it must be less than the vocabulary "
            f"of {own['vocabulary']}"
        )
    turned = None if rotary is None else Rotary(**rotary)
    rest: dict[str, Any] = {k: x for k, x in own.items() if k not in _TOWERS}
    return ClipSize(
        VisionSize(**{**vision, "rotary": turned}),
        TextSize(**text),
        frames=FAMILIES[own["family"]].frames,
        **rest,
    )


def write_own(size: ClipSize) -> dict[str, Any]:
    """The content of a `config.json` that `read_own` reads."""
    values = dataclasses.asdict(size)
    # In a file of its own, which transformers' image processors read as well.
    del values["frames"]
    return {"model_type": OWN_TYPE, **values}
