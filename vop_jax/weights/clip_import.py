"""Opens a CLIP in any known format, recognised by its content; reads no tensor yet."""

import dataclasses
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.layers import ACTIVATIONS
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.weights.backbone import check_clip
from vop_jax.weights.clip_names import NamedModel, recognise
from vop_jax.weights.config_file import load_size
from vop_jax.weights.file_names import CONFIG, TUNED
from vop_jax.weights.inferred_size import size_of
from vop_jax.weights.locate import configured_folder, find_folder
from vop_jax.weights.open_clip_config import FILE as OPEN_CLIP_FILE
from vop_jax.weights.open_clip_config import open_clip_says
from vop_jax.weights.preprocessing import HUGGING_FACE, OPEN_CLIP, stated_frames
from vop_jax.weights.records import is_wrapped
from vop_jax.weights.special_tokens import caption_ends, kind_of_tokenizer
from vop_jax.weights.tensors import Tensor, Weights, open_weights, tensor_of
from vop_jax.weights.tuned import load_tuned, read_tuned, take_prompts
from vop_jax.weights.tuned_config import (
    backbone_folder,
    check_tuned_file,
    read_tuned_config,
)
from vop_jax.weights.tuned_metadata import metadata_of
from vop_jax.weights.tuned_prompts import prompt_config

# F of the released models that do not say it.
_FRAMES = 12


class ClipSource(NamedTuple):
    """An opened CLIP and what was tuned on it.

    Attributes:
        format: see `clip_names.NamedModel`.
        size: the sizes of the CLIP.
        clip: its tensors under Hugging Face's names, with tuned ones replaced.
        added: added parameters, under the names of `tuned.safetensors`.
        metadata: of the tuned parameters, empty for a bare CLIP; `backbone_sha256` is
            that of the files it was read from.
        folder: where tokenizer files may be, or None.
        weights: the files.
        assumed: what the files do not state and was assumed, or empty.
        cleaning: how its texts are cleaned, a key of `captions.CLEANINGS`; empty if
            no file but the tokenizer's says so.
    """

    format: str
    size: ClipSize
    clip: dict[str, Tensor]
    added: dict[str, Tensor]
    metadata: dict[str, Any]
    folder: Path | None
    weights: Weights
    assumed: str
    cleaning: str = ""


def open_clip_source(
    path: Path, activation: str, stack: ExitStack, heads: tuple[int, int] = (0, 0)
) -> ClipSource:
    """Opens a CLIP and what was tuned on it.

    Args:
        path: a file of weights, or a folder with weights, of a run or a shared model.
        activation: `quick_gelu` or `gelu` if the files do not state it, or empty.
        stack: closes the files at the end.
        heads: of the vision and the text tower if the files do not state it, or 0.

    Raises:
        UserError: missing, damaged, not a CLIP, trained with another preprocessing, or
            its activation or heads are unknown.
    """
    # A run and a shared model name their backbone and hold what was tuned on it.
    path = find_folder(path)
    run, tuned_file = RunFolder(path), path / TUNED
    shared = read_tuned_config(path)
    if shared is not None:
        tuned_file = check_tuned_file(path, shared)
        path = backbone_folder(path, shared)
    elif run.is_run():
        path = configured_folder(run.read_backbone())
    # Recognise the format by the names of the tensors.
    weights = open_weights(path, stack)
    where = str(weights.path)
    model = recognise(weights.tensors, where)
    folder = weights.path.parent
    tokenizer = folder if path.is_dir() else None
    # Determine the description: from config.json, or from shapes and other hints.
    cleaning = ""
    if model.stated:
        size, assumed = load_size(folder), ""
        _agree(heads, (size.vision.heads, size.text.heads), folder / CONFIG)
        if activation not in ("", size.vision.activation):
            raise UserError(
                f"--activation={activation}, but {folder / CONFIG} says "
                f"{size.vision.activation}"
            )
    else:
        says = open_clip_says(folder, weights)
        cleaning = says.cleaning
        heads = _agree(heads, says.heads, folder / OPEN_CLIP_FILE)
        acts, assumed = _activations(model, weights, says.activations, activation)
        size, guessed = size_of(
            *(model.clip, heads, acts, where),
            family=model.family,
            tokenizer=kind_of_tokenizer(folder) if tokenizer else None,
            image_size=says.image_size,
            text_epsilon=says.text_epsilon,
        )
        ends = caption_ends(tokenizer, size, None, where)
        size = dataclasses.replace(size, eos_id=ends.end)
        assumed = "; ".join(filter(None, [assumed, guessed]))
    # Validate, then apply what was tuned on the CLIP.
    order = HUGGING_FACE if model.stated else OPEN_CLIP
    frames = stated_frames(*(folder, size.image_size, size.frames, order), warned=True)
    size = dataclasses.replace(size, frames=frames)
    check_clip(size, model.clip, where)
    clip, added, metadata = dict(model.clip), model.prompts, {}
    if added:
        metadata = _METADATA[model.format](size, added)
        shapes = {name: x.shape for name, x in added.items()}
        prompts = prompt_config(shapes, metadata, size, where, model.origins)
        take_prompts(dict(added), size, prompts, where, model.origins)
    elif os.path.lexists(tuned_file):
        named, metadata = read_tuned(tuned_file)
        # Everything in it is held against the CLIP, and nothing is left over.
        load_tuned(tuned_file, size, None)
        changed = {name: x for name, x in named.items() if name in clip}
        clip |= {name: tensor_of(value) for name, value in changed.items()}
        added = {k: tensor_of(x) for k, x in named.items() if k not in changed}
        check_clip(size, clip, str(tuned_file))
    return ClipSource(
        model.format,
        size,
        clip,
        added,
        metadata,
        tokenizer,
        weights,
        assumed,
        cleaning,
    )


def _agree(
    asked: tuple[int, int], stated: tuple[int, int], path: Path
) -> tuple[int, int]:
    """The heads that are stated or asked for; an error if both, and they differ."""
    pairs = list(zip(asked, stated, strict=True))
    if any(0 not in pair and pair[0] != pair[1] for pair in pairs):
        raise UserError(
            f"--heads={asked[0]},{asked[1]}, but {path} says {stated[0]},{stated[1]}"
        )
    vision, text = (b or a for a, b in pairs)
    return vision, text


def _activations(
    model: NamedModel, weights: Weights, stated: tuple[str, str], asked: str
) -> tuple[tuple[str, str], str]:
    """The activations of both towers, and the assumption made, if any.

    OpenAI's and the authors' CLIPs use QuickGELU; open_clip's files look the same and
    may use either. Empty ones are those of the family.
    """
    if asked and any(x not in ("", asked) for x in stated):
        raise UserError(f"--activation={asked}, but {OPEN_CLIP_FILE} says {stated[0]}")
    if asked and asked not in ACTIVATIONS:
        raise UserError(f"--activation is one of {', '.join(ACTIVATIONS)}")
    if asked or any(stated):
        return (stated[0] or asked, stated[1] or asked), ""
    if model.activations is not None:
        return model.activations, ""
    if weights.scripted:
        return ("quick_gelu", "quick_gelu"), ""
    named = weights.path.name.startswith("open_clip") or model.format == "open_clip"
    if named or weights.wrapped or any(map(is_wrapped, weights.tensors)):
        raise UserError(
            f"{weights.path} does not say its activation; pass --activation=quick_gelu "
            "(open_clip's models called -quickgelu, and all of OpenAI's weights) or "
            "--activation=gelu (its others), or keep its open_clip_config.json beside "
            "it"
        )
    return (
        ("quick_gelu", "quick_gelu"),
        "activation quick_gelu, as OpenAI's weights have it",
    )


def _modelscope_metadata(size: ClipSize, added: Mapping[str, Tensor]) -> dict[str, Any]:
    """The metadata that describes the authors' released checkpoint."""
    prompts = PromptConfig(
        text_length=added["text_prompts"].shape[1],
        video_length=added["video_prompts"].shape[1],
        num_frames=_FRAMES,
        text_layout="modelscope",
    )
    return metadata_of("vop", prompts, size.vision.layers, None)


def _dgl_metadata(size: ClipSize, added: Mapping[str, Tensor]) -> dict[str, Any]:
    """The metadata that describes a released checkpoint of DGL."""
    length = added["global_prompts"].shape[0]
    if "text_prefix.weight" in added:
        method, frames = "dgl_linear", _FRAMES
    # Its latent has rows for the captions, twice, and for each frame.
    else:
        method, frames = "dgl_transformer", added["latent"].shape[0] // length - 2
    prompts = PromptConfig(num_frames=max(frames, 1))
    return metadata_of(method, prompts, size.vision.layers, None)


# Format of a released model with prompts -> what describes them.
_METADATA = {"modelscope": _modelscope_metadata, "dgl": _dgl_metadata}
