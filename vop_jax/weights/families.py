"""The families of backbones: how their files say what a model is, and its texts.

A row is data; what a tower computes is in its `ClipSize` alone.
"""

import dataclasses
from collections.abc import Mapping

from vop_jax.model.clip.sizes import FrameRecipe


@dataclasses.dataclass(frozen=True)
class Texts:
    """How a family's texts become token ids.

    Attributes:
        special: `bos_token`, `eos_token` and `pad_token` -> the usual text of the
            token that starts a caption, ends it and fills the rest; a family whose
            captions have no start lacks the first.
        cleaning: a key of `captions.CLEANINGS`, as the family's tokenizer of
            transformers cleans.
        end: the usual id of the end token, for a model without tokenizer files; None
            where `config.json` says it.
        unstated: an `eos_token_id` of config.json that does not mean that token.
        consecutive: whether the end token is the one after the start token.
        clips: whether a model without tokenizer files may have OpenAI's vocabulary.
    """

    special: Mapping[str, str]
    cleaning: str
    end: int | None = None
    unstated: int | None = None
    consecutive: bool = False
    clips: bool = False

    @property
    def starts(self) -> bool:
        """Whether a caption begins with a start token."""
        return "bos_token" in self.special


# OpenAI's.
_USUAL = FrameRecipe()


@dataclasses.dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        name: for messages.
        model_type: of the config.json of its folders: one of transformers, or
            `own_config.MODEL_TYPE` where transformers has no such model.
        texts: how its texts become ids.
        frames: how its models want frames, unless their files say so.
        tokenizer: the type of model of its `tokenizer.json`, and its usual vocabulary:
            what tells families of one `model_type` apart.
    """

    name: str
    model_type: str
    texts: Texts
    frames: FrameRecipe = _USUAL
    tokenizer: tuple[str, int] = ("", 0)


_CLIP_TEXTS = Texts(
    {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"},
    "clip",
    # Files of 2021 have that for every CLIP, whatever its tokenizer; see
    # https://github.com/huggingface/transformers/pull/24773.
    unstated=2,
    consecutive=True,
    clips=True,
)
_HALF = (0.5, 0.5, 0.5)
_SQUASHED = FrameRecipe("squash", "bicubic", _HALF, _HALF)
# The model_type of what transformers has no model of.
OWN_TYPE = "vop_jax"
FAMILIES = {
    "clip": Family("CLIP", "clip", _CLIP_TEXTS),
    "metaclip_2": Family(
        "MetaCLIP 2",
        "metaclip_2",
        Texts({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}, "none"),
    ),
    "siglip": Family(
        "SigLIP",
        "siglip",
        Texts({"eos_token": "</s>", "pad_token": "</s>"}, "siglip", end=1),
        _SQUASHED,
        ("Unigram", 32_000),
    ),
    "siglip2": Family(
        "SigLIP 2",
        "siglip",
        Texts({"eos_token": "<eos>", "pad_token": "<pad>"}, "siglip2", end=1),
        _SQUASHED,
        ("BPE", 256_000),
    ),
    "pe_core": Family(
        "PE-Core",
        OWN_TYPE,
        _CLIP_TEXTS,
        FrameRecipe("squash", "bilinear", _HALF, _HALF),
    ),
    "eva02_clip": Family("EVA02-CLIP", OWN_TYPE, _CLIP_TEXTS),
}


def family_of(model_type: str, tokenizer: str | None, vocabulary: int) -> str:
    """The family of a folder's model.

    Args:
        model_type: of its config.json, one of a row.
        tokenizer: the type of model of its tokenizer, None if it has none.
        vocabulary: the number of token ids.
    """
    rows = {k: x for k, x in FAMILIES.items() if x.model_type == model_type}
    told = [k for k, x in rows.items() if x.tokenizer[0] == tokenizer]
    usual = [k for k, x in rows.items() if x.tokenizer[1] == vocabulary]
    return next(iter([*told, *usual, *rows]))
