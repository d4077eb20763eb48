"""Recognises the format of a model by its tensors' names, and renames them to ours."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from data_pipelines.console.errors import UserError
from vop_jax.weights.dgl_names import is_dgl, split_dgl
from vop_jax.weights.families import FAMILIES
from vop_jax.weights.modelscope_names import PREFIX, split_modelscope, to_modelscope
from vop_jax.weights.name_tables import (
    BIG_VISION,
    OPENAI,
    PE_CORE,
    SIGLIP,
    TIMM_EVA02,
    TIMM_PE_CORE,
    TIMM_SIGLIP,
)
from vop_jax.weights.records import few, unwrapped
from vop_jax.weights.renames import Rename, to_ours, to_theirs
from vop_jax.weights.tensors import Tensor

__all__ = ["recognise", "stored_names", "to_modelscope", "to_openai"]


@dataclasses.dataclass(frozen=True)
class _Format:
    """A row of the table of formats.

    Attributes:
        name: for messages.
        marks: names of tensors that every such model has.
        table: its names; empty if they are ours.
        lacks: names that tell another format.
        stated: whether a config.json describes the model.
        family: of a model that none describes.
        activations: of its two towers, empty for the family's own; None where that
            differs from file to file.
    """

    name: str
    marks: Sequence[str]
    table: Sequence[Rename] = ()
    lacks: Sequence[str] = ()
    stated: bool = False
    family: str = "clip"
    activations: tuple[str, str] | None = None


# Of all models of a family alike.
_OWN = ("", "")
_LATENT, _PRE = "visual.trunk.attn_pool.latent", "visual.trunk.norm_pre.weight"
# The first whose marks are there.
_FORMATS = (
    _Format(
        "huggingface",
        ("vision_model.head.attention.in_proj_weight",),
        SIGLIP,
        stated=True,
    ),
    _Format(
        "huggingface", ("vision_model.embeddings.patch_embedding.weight",), stated=True
    ),
    _Format("open_clip", (_LATENT,), TIMM_SIGLIP, (_PRE,), family="siglip"),
    _Format("open_clip", (_LATENT, _PRE), TIMM_PE_CORE, (), False, "pe_core", _OWN),
    _Format(
        "open_clip",
        ("visual.trunk.blocks.0.mlp.fc1_g.weight",),
        TIMM_EVA02,
        family="eva02_clip",
        activations=_OWN,
    ),
    _Format(
        "perception_models",
        ("visual.conv1.weight", "visual.attn_pool.probe"),
        PE_CORE,
        family="pe_core",
        activations=_OWN,
    ),
    _Format(
        "big_vision",
        ("params/img/MAPHead_0/probe",),
        BIG_VISION,
        family="siglip",
        # JAX's GELU, unless told otherwise, is the one by tanh.
        activations=("gelu_tanh", "gelu_tanh"),
    ),
    _Format(
        "openai", ("visual.conv1.weight",), OPENAI, ("visual.layer1.0.conv1.weight",)
    ),
)
# A family's folder of transformers has the names of this table, if not ours.
_STORED = {"siglip": SIGLIP}
# Entries besides the weights: sizes that also follow from shapes, and buffers.
_IGNORED = {
    "input_resolution",
    "context_length",
    "vocab_size",
    "attn_mask",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
}
# What is one number, without axes in transformers' files of a CLIP.
_NUMBERS = ("logit_scale", "logit_bias")
# open_clip's models with a custom text tower store it under `text.`.
_OPEN_CLIP_TEXT = re.compile(
    r"text\.(?=(transformer|token_embedding|positional_embedding|ln_final|attn_mask"
    r"|text_projection)\b)"
)
# Parts that other models add to a CLIP or replace -> the model they identify.
_FOREIGN = {
    r"transformerClip\.|frame_position_embeddings\.": (
        "CLIP4Clip's seqTransf, a Transformer over the features of a CLIP's frames"
    ),
    r"lstm_visual\.": "CLIP4Clip's seqLSTM, an LSTM over the features of frames",
    r"(cross|similarity_dense)\.": "CLIP4Clip's tightTransf, a joint Transformer",
    r"(mit|prompts_generator|prompts_visual_layernorm)\.": (
        "X-CLIP, which attends between frames"
    ),
    r"visual\.attn_pool\.(query|ln_q|ln_k)": (
        "a captioner's CLIP that pools by several queries (CoCa)"
    ),
    r"text_decoder\.": "a captioner (CoCa, BLIP)",
    r"text\.(transformer\.encoder|transformer\.shared|roberta)\.": (
        "an open_clip model with a text tower of Hugging Face"
    ),
}
_UNKNOWN_TRUNK = (
    "an open_clip model with a tower of timm that is none of SigLIP, PE-Core and "
    "EVA02-CLIP"
)


@dataclasses.dataclass(frozen=True)
class NamedModel:
    """A model under our names, and what was tuned on it.

    Attributes:
        format: `huggingface`, `openai` (also for open_clip, whose names are the same),
            `open_clip` with a tower of timm, `perception_models`, `big_vision`,
            `modelscope` or `dgl`.
        clip: the CLIP.
        prompts: added parameters, under the names of `tuned.safetensors`.
        origins: of each, its name in the file and its shape there, for messages.
        stated: whether a config.json describes it.
        family: a key of `families.FAMILIES`, of a model that none describes.
        activations: of the two towers, where the format or the family says so.
    """

    format: str
    clip: dict[str, Tensor]
    prompts: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    origins: dict[str, str] = dataclasses.field(default_factory=dict)
    stated: bool = False
    family: str = "clip"
    activations: tuple[str, str] | None = None


def recognise(tensors: Mapping[str, Tensor], where: str) -> NamedModel:
    """Recognises a model by its tensors' names, and renames them to ours.

    Args:
        tensors: by their names in the file.
        where: names the file in an error.

    Raises:
        UserError: it is not a supported model, or is incomplete.
    """
    tensors = unwrapped(tensors, where)
    # The other axes of an empty tensor may have any size, and sizes are read from them.
    empty = [name for name, x in tensors.items() if 0 in x.shape]
    if empty:
        raise UserError(f"{where}: {few(sorted(empty))} is empty, which no CLIP has")
    _check_foreign(tensors, where)
    prompts: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    released = ""
    if is_dgl(tensors, PREFIX):
        released = "dgl"
        tensors, prompts, origins = split_dgl(tensors, PREFIX, where)
    elif any(name.startswith(PREFIX) for name in tensors):
        released = "modelscope"
        tensors, prompts, origins = split_modelscope(tensors, where)
    found = next((x for x in _FORMATS if _fits(x, tensors)), None)
    if found is None:
        trunk = any(name.startswith("visual.trunk.") for name in tensors)
        what = f"is {_UNKNOWN_TRUNK}" if trunk else "is not a CLIP with a vision"
        what += "" if trunk else " Transformer"
        raise UserError(
            f"{where} {what}: it holds "
            f"{few(sorted(tensors)) if tensors else 'no tensors'}"
        )
    kept = {name: x for name, x in tensors.items() if name not in _IGNORED}
    if not found.stated:
        kept = {_OPEN_CLIP_TEXT.sub("", name, count=1): x for name, x in kept.items()}
        kept = {name: x for name, x in kept.items() if name not in _IGNORED}
    if found.table:
        kept = to_ours(found.table, kept, where)
    kept = {k: _number(x) if k in _NUMBERS else x for k, x in kept.items()}
    name, activations = found.name, found.activations
    if released:
        name, activations = released, ("quick_gelu", "quick_gelu")
    return NamedModel(
        name, kept, prompts, origins, found.stated, found.family, activations
    )


def _number(tensor: Tensor) -> Tensor:
    """A number that a file holds as one, or in a vector of length 1.

    Another shape is kept, for `backbone.check_scale` to name it.
    """
    if math.prod(tensor.shape) != 1:
        return tensor
    return Tensor((), lambda: tensor.read().reshape(()))


def _fits(form: _Format, names: Mapping[str, Tensor]) -> bool:
    held = all(name in names for name in form.marks)
    return held and not any(name in names for name in form.lacks)


def _check_foreign(tensors: Mapping[str, Tensor], where: str) -> None:
    for pattern, what in _FOREIGN.items():
        part = re.compile(pattern)
        name = next((x for x in tensors if part.match(x)), None)
        if name is not None:
            raise UserError(
                f"{where} is {what}, which is not supported (it holds {few([name])}); "
                "use a CLIP with a plain vision Transformer"
            )


def stored_names(family: str, clip: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model under the names that its folder has."""
    table = _STORED.get(FAMILIES[family].model_type)
    if table is not None:
        return to_theirs(table, clip)
    scale = clip["logit_scale"]
    # Older files have it in a vector, which transformers refuses.
    return {**clip, "logit_scale": Tensor((), lambda: scale.read().reshape(()))}


def to_openai(clip: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames a CLIP to OpenAI's names, in the order of OpenAI's files."""
    return to_theirs(OPENAI, clip)
