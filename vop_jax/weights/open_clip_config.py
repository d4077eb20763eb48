"""What an `open_clip_config.json` says of a model that its tensors do not."""

import os
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired

from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, read_json, shown
from vop_jax.weights.hugging_face_config import Epsilon, Heads, Side, Width
from vop_jax.weights.tensors import Weights

FILE = "open_clip_config.json"
# open_clip's names of what its tokenizers do first -> `captions.CLEANINGS`.
_CLEANINGS = {
    "canonicalize": "canonicalize",
    "whitespace": "whitespace",
    "lower": "clip",
}
# timm's towers, by the pattern of their names -> the activation. Of SigLIP's, whose
# weights were made with tanh, some compute the exact form (timm 1.0.31).
_TIMM = {
    r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip_\d+": "gelu_tanh",
    r"vit_large_patch16_siglip_512": "gelu_tanh",
    r"vit_(base_patch16|large_patch16|so400m_patch14)_siglip_\d+": "gelu",
    r"vit_pe_core_(tiny|small|base|large|gigantic)_patch\d+_\d+": "gelu",
    r"eva02_(base|large)_patch\d+_clip_\d+": "silu",
}


class OpenClipSays(NamedTuple):
    """What is said; zeros, empty and None for what is not.

    Attributes:
        heads: of the vision and of the text tower.
        activations: of the two towers.
        image_size: pixels.
        text_epsilon: of the text tower's LayerNorms.
        cleaning: a key of `captions.CLEANINGS`.
    """

    heads: tuple[int, int] = (0, 0)
    activations: tuple[str, str] = ("", "")
    image_size: int = 0
    text_epsilon: float | None = None
    cleaning: str = ""


class Vision(TypedDict):
    """A `vision_cfg` of open_clip; the `layers` of a ResNet are a list."""

    layers: Width
    width: Width
    head_width: NotRequired[Width]
    image_size: NotRequired[Side]


class Trunk(TypedDict):
    """A `vision_cfg` with a tower of timm."""

    timm_model_name: str
    image_size: Side
    timm_pool: NotRequired[Literal["map", "token"]]
    timm_proj: NotRequired[Literal["none", ""] | None]


class Kind(TypedDict):
    """The arguments of an activation or of a LayerNorm."""

    approximate: NotRequired[Literal["tanh", "none"]]
    eps: NotRequired[Epsilon]


class Cleaned(TypedDict):
    """The arguments of a tokenizer."""

    clean: NotRequired[Literal["canonicalize", "whitespace", "lower"]]


class Text(TypedDict):
    """A `text_cfg` of open_clip."""

    heads: Heads
    hf_tokenizer_name: NotRequired[str | None]
    tokenizer_kwargs: NotRequired[Cleaned | None]
    norm_kwargs: NotRequired[Kind | None]
    act_kwargs: NotRequired[Kind | None]
    hf_model_name: NotRequired[None]


class PlainModel(TypedDict):
    """A `model_cfg` of open_clip."""

    vision_cfg: Vision
    text_cfg: Text
    quick_gelu: NotRequired[bool]


class TrunkModel(TypedDict):
    """A `model_cfg` with a tower of timm."""

    vision_cfg: Trunk
    text_cfg: Text
    quick_gelu: NotRequired[bool]


def open_clip_says(folder: Path, weights: Weights) -> OpenClipSays:
    """Reads the `open_clip_config.json` of a model.

    Args:
        folder: of the weights.
        weights: the file; one of another name has no such config.

    Raises:
        UserError: it is damaged, or describes no supported model.
    """
    path = folder / FILE
    if not weights.path.name.startswith("open_clip") or not os.path.lexists(path):
        return OpenClipSays()
    where = f"{path} does not describe a ViT CLIP"
    values = described(read_json(path), dict, where)
    model = described(values.get("model_cfg"), dict, f"{where}: model_cfg")
    vision = described(model.get("vision_cfg"), dict, f"{where}: model_cfg.vision_cfg")
    place = f"{where}: model_cfg"
    if "timm_model_name" in vision:
        return _of_trunk(described(model, TrunkModel, place), place)
    return _plain(described(model, PlainModel, place), place)


def _plain(model: PlainModel, where: str) -> OpenClipSays:
    vision = model["vision_cfg"]
    width, part = vision["width"], vision.get("head_width", 64)
    if width % part:
        raise UserError(
            f"{where}.vision_cfg.head_width is {part}; it must divide the width of "
            f"{width}"
        )
    usual = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
    says = _of_text(model["text_cfg"], usual)
    return says._replace(
        heads=(width // part, says.heads[1]), activations=(usual, says.activations[1])
    )


def _of_trunk(model: TrunkModel, where: str) -> OpenClipSays:
    vision, name = model["vision_cfg"], model["vision_cfg"]["timm_model_name"]
    known = (x for pattern, x in _TIMM.items() if re.fullmatch(pattern, name))
    activation = next(known, None)
    if activation is None:
        raise UserError(
            f"{where}.vision_cfg.timm_model_name is {shown(name)}; it must be a "
            "SigLIP, a PE-Core or an EVA02-CLIP of timm"
        )
    usual = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
    says = _of_text(model["text_cfg"], usual)
    return says._replace(
        activations=(activation, says.activations[1]), image_size=vision["image_size"]
    )


def _of_text(text: Text, usual: str) -> OpenClipSays:
    act: Any = text.get("act_kwargs") or {}
    norm: Any = text.get("norm_kwargs") or {}
    activation = "gelu_tanh" if act.get("approximate") == "tanh" else usual
    # open_clip's own tokenizer, and its use of one of Hugging Face's.
    named = text.get("hf_tokenizer_name")
    given: Any = text.get("tokenizer_kwargs") or {}
    clean = given.get("clean", "whitespace" if named else "lower")
    return OpenClipSays(
        heads=(0, text["heads"]),
        activations=("", activation),
        text_epsilon=norm.get("eps"),
        cleaning=_CLEANINGS[clean],
    )
