"""Other projects' names of CLIP's tensors <-> Hugging Face's, as a table.

An entry maps one of their tensors to Hugging Face's: to one of the same shape, to its
transpose, or to several that are stacked on the first axis. One engine applies the
table in both directions and is strict: missing and unexpected tensors and other shapes
are errors.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.console.errors import UserError
from vop_jax.weights.records import LAYER, few, unwrapped
from vop_jax.weights.tensors import Tensor


@dataclasses.dataclass(frozen=True)
class Rename:
    """One tensor of another project.

    Attributes:
        theirs: its name, with `{layer}` if there is one per layer.
        ours: the Hugging Face names; several are equal parts of its first axis.
        transposed: whether it is the transpose of Hugging Face's matrix.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False


def _parts(theirs: str, ours: str, *names: str) -> list[Rename]:
    return [Rename(f"{theirs}.{name}", (f"{ours}.{name}",)) for name in names]


def _tower(theirs: str, ours: str) -> list[Rename]:
    """The layers of one tower."""
    source = f"{theirs}transformer.resblocks.{LAYER}"
    target = f"{ours}.encoder.layers.{LAYER}"
    mixed = [f"{target}.self_attn.{x}_proj" for x in "qkv"]
    both = ("weight", "bias")
    return [
        *_parts(f"{source}.ln_1", f"{target}.layer_norm1", *both),
        *[
            Rename(f"{source}.attn.in_proj_{x}", tuple(f"{name}.{x}" for name in mixed))
            for x in both
        ],
        *_parts(f"{source}.attn.out_proj", f"{target}.self_attn.out_proj", *both),
        *_parts(f"{source}.ln_2", f"{target}.layer_norm2", *both),
        *_parts(f"{source}.mlp.c_fc", f"{target}.mlp.fc1", *both),
        *_parts(f"{source}.mlp.c_proj", f"{target}.mlp.fc2", *both),
    ]


_TEXT, _VISION = "text_model.embeddings", "vision_model.embeddings"
# OpenAI's names, which open_clip and the authors' release use as well.
OPENAI = (
    Rename("positional_embedding", (f"{_TEXT}.position_embedding.weight",)),
    Rename("text_projection", ("text_projection.weight",), transposed=True),
    Rename("logit_scale", ("logit_scale",)),
    Rename("visual.class_embedding", (f"{_VISION}.class_embedding",)),
    Rename("visual.positional_embedding", (f"{_VISION}.position_embedding.weight",)),
    Rename("visual.proj", ("visual_projection.weight",), transposed=True),
    Rename("visual.conv1.weight", (f"{_VISION}.patch_embedding.weight",)),
    # The misspelling is the published name.
    *_parts("visual.ln_pre", "vision_model.pre_layrnorm", "weight", "bias"),
    *_tower("visual.", "vision_model"),
    *_parts("visual.ln_post", "vision_model.post_layernorm", "weight", "bias"),
    *_tower("", "text_model"),
    Rename("token_embedding.weight", (f"{_TEXT}.token_embedding.weight",)),
    *_parts("ln_final", "text_model.final_layer_norm", "weight", "bias"),
)
# Entries besides the weights: sizes that also follow from shapes, and buffers.
_IGNORED = {
    "input_resolution",
    "context_length",
    "vocab_size",
    "attn_mask",
    f"{_TEXT}.position_ids",
    f"{_VISION}.position_ids",
}
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
    r"vision_model\.head\.|text_model\.head\.": "a SigLIP",
    r"visual\.trunk\.": "an open_clip model with a tower of timm",
    r"visual\.attn_pool\.": "a CLIP that pools by attention (CoCa, PE)",
    r"text_decoder\.": "a captioner (CoCa, BLIP)",
    r"text\.(transformer\.encoder|transformer\.shared|roberta)\.": (
        "an open_clip model with a text tower of Hugging Face"
    ),
}
# The authors' release holds a complete CLIP, copies of its parts under the encoders
# that use them, and the prompts. Prefix of a copy -> prefix of the original.
_MODELSCOPE = "clip."
_COPIES = {"image_encoder.": "visual.", "text_encoder.": ""}
MODELSCOPE_PROMPTS = {
    "text_prompt_learner.text_prompts": "text_prompts",
    "visual_prompt_learner.visual_prompts": "video_prompts",
}


@dataclasses.dataclass(frozen=True)
class NamedModel:
    """A model under Hugging Face's names, and what was tuned on it.

    Attributes:
        format: `huggingface`, `openai` (also for open_clip, whose names are the same)
            or `modelscope`.
        clip: the CLIP.
        prompts: added parameters, under the names of `tuned.safetensors`.
    """

    format: str
    clip: dict[str, Tensor]
    prompts: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def recognise(tensors: Mapping[str, Tensor], where: str) -> NamedModel:
    """Recognises a model by its tensors' names, and renames them to Hugging Face's.

    Args:
        tensors: by their names in the file.
        where: names the file in an error.

    Raises:
        UserError: it is not a CLIP with a vision Transformer, or is incomplete.
    """
    tensors = unwrapped(tensors, where)
    # The other axes of an empty tensor may have any size, and sizes are read from them.
    empty = [name for name, x in tensors.items() if 0 in x.shape]
    if empty:
        raise UserError(f"{where}: {few(sorted(empty))} is empty, which no CLIP has")
    _check_foreign(tensors, where)
    if "vision_model.embeddings.patch_embedding.weight" in tensors:
        kept = {k: x for k, x in tensors.items() if k not in _IGNORED}
        return NamedModel("huggingface", kept)
    prompts = {}
    form = "openai"
    if any(name.startswith(_MODELSCOPE) for name in tensors):
        form = "modelscope"
        tensors, prompts = _modelscope(tensors, where)
    tensors = {_OPEN_CLIP_TEXT.sub("", name, count=1): x for name, x in tensors.items()}
    if (
        "visual.conv1.weight" not in tensors
        or "visual.layer1.0.conv1.weight" in tensors
    ):
        raise UserError(
            f"{where} is not a CLIP with a vision Transformer: it holds "
            f"{few(sorted(tensors)) if tensors else 'no tensors'}"
        )
    kept = {name: x for name, x in tensors.items() if name not in _IGNORED}
    return NamedModel(form, _to_hugging_face(kept, where), prompts)


def _check_foreign(tensors: Mapping[str, Tensor], where: str) -> None:
    for pattern, what in _FOREIGN.items():
        part = re.compile(pattern)
        name = next((x for x in tensors if part.match(x)), None)
        if name is not None:
            raise UserError(
                f"{where} is {what}, which is not supported (it holds {few([name])}); "
                "use a CLIP with a plain vision Transformer"
            )


def _modelscope(
    tensors: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Splits the authors' release: the CLIP under OpenAI's names, and the prompts."""
    clip, prompts = {}, {}
    for name, tensor in tensors.items():
        if name.startswith(_MODELSCOPE):
            clip[name.removeprefix(_MODELSCOPE)] = tensor
    for name, tensor in tensors.items():
        if name in MODELSCOPE_PROMPTS:
            prompts[MODELSCOPE_PROMPTS[name]] = _modelscope_prompts(name, tensor, where)
            continue
        if name.startswith(_MODELSCOPE):
            continue
        prefix = next((x for x in _COPIES if name.startswith(x)), None)
        original = prefix and _COPIES[prefix] + name.removeprefix(prefix)
        if original not in clip:
            raise UserError(f"{where} holds {name}, which no released VoP has")
        # They are one tensor in the release; two that differ would be two models.
        if not np.array_equal(tensor.read(), clip[original].read()):
            raise UserError(
                f"{where}: {name} and {_MODELSCOPE}{original} differ, but they are one "
                "tensor in the released model"
            )
    if prompts and len(prompts) < len(MODELSCOPE_PROMPTS):
        raise UserError(f"{where} lacks one of {', '.join(MODELSCOPE_PROMPTS)}")
    return clip, prompts


def _modelscope_prompts(name: str, tensor: Tensor, where: str) -> Tensor:
    """Prompts `[K, P, D]`; video prompts are stored as `[K, 1, P, D]`."""
    shape = tensor.shape
    if len(shape) == 4 and shape[1] == 1:
        shape = (shape[0], *shape[2:])
    if len(shape) != 3:
        raise UserError(f"{where}: {name} has shape {list(tensor.shape)}")
    return Tensor(shape, lambda: tensor.read().reshape(shape))


def _expanded(records: Sequence[Rename], names: Sequence[str]) -> list[Rename]:
    """The table with `{layer}` expanded, for the layers that the names have."""
    whole = []
    for record in records:
        if LAYER not in record.theirs:
            whole.append(record)
            continue
        pattern = re.compile(
            re.escape(record.theirs).replace(re.escape(LAYER), r"(\d+)")
        )
        found = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
        # A name may state any layer; no model has more layers than tensors.
        for i in range(min(max(found, default=-1), len(names)) + 1):
            whole.append(
                Rename(
                    record.theirs.replace(LAYER, str(i)),
                    tuple(name.replace(LAYER, str(i)) for name in record.ours),
                    record.transposed,
                )
            )
    return whole


def _to_hugging_face(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    named, used, missing = {}, set(), []
    for record in _expanded(OPENAI, list(tensors)):
        tensor = tensors.get(record.theirs)
        if tensor is None:
            missing.append(record.theirs)
            continue
        used.add(record.theirs)
        shape, count = tensor.shape, len(record.ours)
        if (record.transposed and len(shape) != 2) or (count > 1 and shape[0] % count):
            raise UserError(f"{where}: {record.theirs} has shape {list(shape)}")
        if record.transposed:
            shape = shape[::-1]
        elif count > 1:
            shape = (shape[0] // count, *shape[1:])
        for part, name in enumerate(record.ours):
            named[name] = Tensor(shape, _reader(tensor, record, part))
    left = sorted(tensors.keys() - used)
    if missing or left:
        raise UserError(
            f"{where} is not the CLIP its names say: missing {few(missing)}; "
            f"unexpected {few(left)}"
        )
    return named


def _reader(tensor: Tensor, record: Rename, part: int):
    def read() -> np.ndarray:
        value = tensor.read()
        if record.transposed:
            return value.T
        return (
            np.split(value, len(record.ours))[part] if len(record.ours) > 1 else value
        )

    return read


def to_openai(clip: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames a CLIP to OpenAI's names, in the order of OpenAI's files."""
    reverse = {record.ours[0]: record for record in OPENAI}
    pattern = re.compile(r"\.layers\.(\d+)\.")
    layers = [
        max(
            int(match[1])
            for name in clip
            if name.startswith(tower)
            for match in [pattern.search(name)]
            if match
        )
        + 1
        for tower in ("vision_model", "text_model")
    ]
    named = {}
    for record in reverse.values():
        vision = record.ours[0].startswith("vision_model")
        for i in range(layers[not vision] if LAYER in record.theirs else 1):
            parts = [clip[name.replace(LAYER, str(i))] for name in record.ours]
            named[record.theirs.replace(LAYER, str(i))] = _joined(record, parts)
    return named


def _joined(record: Rename, parts: Sequence[Tensor]) -> Tensor:
    shape = parts[0].shape
    if record.transposed:
        return Tensor(shape[::-1], lambda: np.asarray(parts[0].read()).T)
    if len(parts) == 1:
        return parts[0]
    whole = (len(parts) * shape[0], *shape[1:])
    return Tensor(whole, lambda: np.concatenate([part.read() for part in parts]))


def to_modelscope(
    clip: Mapping[str, Tensor], prompts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A CLIP and its prompts under the names of the authors' released model."""
    openai = to_openai(clip)
    named = {_MODELSCOPE + name: tensor for name, tensor in openai.items()}
    if not prompts:
        return named
    for theirs, ours in MODELSCOPE_PROMPTS.items():
        tensor = prompts[ours]
        if ours == "video_prompts":
            shape = (tensor.shape[0], 1, *tensor.shape[1:])
            tensor = Tensor(shape, lambda x=tensor, s=shape: x.read().reshape(s))
        named[theirs] = tensor
    for name, tensor in openai.items():
        vision = name.startswith("visual.")
        # The copy under the text encoder has no logit scale.
        if name == "logit_scale":
            continue
        copy = "image_encoder." + name[7:] if vision else "text_encoder." + name
        named[copy] = tensor
    return named
