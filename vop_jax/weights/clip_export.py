"""Writes a CLIP and its tuned parameters in the format of another project."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import progress, say, warn
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.runtime.files import write_atomically
from vop_jax.runtime.new_folder import new_folder
from vop_jax.weights.backbone import file_sha256
from vop_jax.weights.clip_import import ClipSource, open_clip_source
from vop_jax.weights.clip_names import stored_names, to_modelscope, to_openai
from vop_jax.weights.config_file import save_frames, save_size
from vop_jax.weights.families import FAMILIES
from vop_jax.weights.file_names import TOKENIZER_FILES, TUNED, WEIGHTS
from vop_jax.weights.inferred_size import heads_of
from vop_jax.weights.lora_merge import merge_lora
from vop_jax.weights.modelscope_names import MODELSCOPE_PROMPTS
from vop_jax.weights.packaged_tokenizer import (
    CLIP_VOCABULARY,
    write_packaged_tokenizer,
)
from vop_jax.weights.special_tokens import CONFIG as SETTINGS
from vop_jax.weights.special_tokens import tokenizer_settings, write_tokenizer_class
from vop_jax.weights.tensors import Tensor, write_safetensors
from vop_jax.weights.tokenizer import CLEANING
from vop_jax.weights.torch_writer import write_torch
from vop_jax.weights.tuned import write_tuned

# SHA-256 of OpenAI's files, as stated in their download URLs -> the model.
OFFICIAL = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B/32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B/16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L/14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": (
        "ViT-L/14@336px"
    ),
}


def convert(
    path: Path,
    output: Path,
    target: str,
    activation: str = "",
    heads: tuple[int, int] = (0, 0),
) -> None:
    """Converts a checkpoint; the output appears complete or not at all.

    Args:
        path: see `clip_import.open_clip_source`.
        output: a folder that does not exist yet.
        target: a key of `_WRITERS`.
        activation: see `clip_import.open_clip_source`.
        heads: see `clip_import.open_clip_source`.

    Raises:
        UserError: the input is missing, damaged or not a CLIP; the output exists, is
            being written or cannot be written; or the target format cannot represent
            the input.
    """
    with new_folder(output) as partial, ExitStack() as stack:
        source = open_clip_source(path, activation, stack, heads)
        hashes = {file: file_sha256(file) for file in source.weights.files}
        writer = _WRITERS[target]
        if not writer.takes_lora:
            source = _with_merged_lora(source)
        if source.assumed:
            warn(f"{path} does not say it, so it is assumed: {source.assumed}")
        writer.write(source, partial)
    for file, sha256 in hashes.items():
        known = OFFICIAL.get(sha256)
        note = f", OpenAI's {known}" if known else ""
        say(f"{file}: sha256 {sha256}{note}")
    say(f"{source.format} -> {target}: {output}")


def _with_merged_lora(source: ClipSource) -> ClipSource:
    """The source with LoRA's changes in its weights, which every code then runs."""
    if not any(name.startswith("lora.") for name in source.added):
        return source
    metadata = dict(source.metadata)
    parts = metadata.pop("lora_parts", PromptConfig.lora_parts)
    metadata.pop("lora_rank", None)
    first = metadata.get("first_layer", PromptConfig.first_layer)
    clip, added = merge_lora(source.clip, source.added, parts, first)
    return source._replace(clip=clip, added=added, metadata=metadata)


def _written(tensors: Mapping[str, Tensor], write: Callable[[Any], None]) -> None:
    """Runs a writer that reports each tensor's bytes, and shows its progress."""
    size = sum(4 * math.prod(tensor.shape) for tensor in tensors.values())
    with progress("converting", round(size / 1e6), "MB") as bar:
        write(lambda count: bar.advance(count / 1e6))


def write_hugging_face(source: ClipSource, folder: Path) -> None:
    """Writes a CLIP as a Hugging Face folder, with its tokenizer if that is known."""
    weights = folder / WEIGHTS
    stored = stored_names(source.size.family, source.clip)
    _written(stored, lambda told: write_safetensors(weights, stored, on_written=told))
    save_size(folder, source.size)
    save_frames(folder, source.size)
    for name in TOKENIZER_FILES:
        if source.folder is not None and (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)
    write_tokenizer_class(folder, source.size)
    usual = FAMILIES[source.size.family].texts
    if source.cleaning not in ("", usual.cleaning):
        settings = tokenizer_settings(folder) | {CLEANING: source.cleaning}
        write_atomically(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
    packaged = usual.clips and source.size.vocabulary == CLIP_VOCABULARY
    if packaged and not any(
        (folder / name).exists() for name in ("tokenizer.json", "vocab.json")
    ):
        # So that the folder needs no other package to be used.
        write_packaged_tokenizer(folder)
    if source.added:
        named = {name: tensor.read() for name, tensor in source.added.items()}
        metadata = source.metadata | {"backbone_sha256": file_sha256(weights)}
        metadata.pop("format", None)
        write_tuned(folder / TUNED, named, metadata)


def _write_for_torch(source: ClipSource, folder: Path) -> None:
    """Writes a Hugging Face folder that `examples/use_in_pytorch.py` runs."""
    family = FAMILIES[source.size.family]
    if family.model_type != "clip":
        raise UserError(
            f"examples/use_in_pytorch.py runs a CLIP, and this is a {family.name}; use "
            "--to=huggingface"
        )
    if source.metadata.get("text_layout", "prefix") != "prefix":
        raise UserError(
            "examples/use_in_pytorch.py has text prompts before the words "
            "(text_layout=prefix); these are the authors' own; use --to=modelscope"
        )
    write_hugging_face(source, folder)


def _write_openai(source: ClipSource, folder: Path) -> None:

    if source.added:
        raise UserError(
            f"OpenAI's format has no place for {', '.join(sorted(source.added)[:3])}; "
            "use --to=huggingface, or the bare CLIP"
        )
    check_openai_size(source)
    _write_torch(folder / "clip.pt", to_openai(source.clip))


def _write_modelscope(source: ClipSource, folder: Path) -> None:

    prompts, wanted = source.added, set(MODELSCOPE_PROMPTS.values())
    size, metadata = source.size, source.metadata
    rows = {name: tensor.shape[0] for name, tensor in prompts.items()}
    fits = prompts.keys() == wanted and metadata["text_layout"] == "modelscope"
    whole = {"text_prompts": size.text.layers, "video_prompts": size.vision.layers}
    if prompts and not (fits and rows == whole):
        raise UserError(
            "the released VoP has text and video prompts in every layer, the text's in "
            f"its own layout (text_layout=modelscope); this is {metadata['method']} "
            f"with text_layout={metadata['text_layout']}; use --to=huggingface"
        )
    check_openai_size(source)
    # The file names that the authors' code opens.
    name = "VoP_msrvtt9k.pth" if prompts else "VoPSE_msrvtt9k.pth"
    named = to_modelscope(source.clip, prompts)
    _write_torch(folder / name, named, wrap="state_dict")


def _write_torch(path: Path, tensors: Mapping[str, Tensor], wrap: str = "") -> None:

    entries = {name: (x.shape, np.dtype(np.float32)) for name, x in tensors.items()}

    def write(told: Callable[[int], None]) -> None:
        def read(name: str) -> np.ndarray:
            value = np.asarray(tensors[name].read(), np.float32, order="C")
            told(value.nbytes)
            return value

        write_torch(path, entries, read, wrap=wrap)

    _written(tensors, write)


def check_openai_size(source: ClipSource) -> None:
    """Checks that OpenAI's code, which infers sizes from shapes, builds this model."""
    family = FAMILIES[source.size.family]
    if family.model_type != "clip":
        raise UserError(
            f"OpenAI's format has no place for a {family.name}; use --to=huggingface"
        )
    for name in ("vision", "text"):
        tower = getattr(source.size, name)
        if tower.heads != tower.width // 64 or tower.mlp != 4 * tower.width:
            raise UserError(
                f"the {name} tower has {tower.heads} heads and a feed-forward part of "
                f"{tower.mlp} at width {tower.width}; OpenAI's code takes "
                f"{tower.width // 64} and {4 * tower.width}; use --to=huggingface"
            )
        published = heads_of(name, tower.width)
        if published not in (0, tower.heads):
            raise UserError(
                f"the {name} tower has {tower.heads} heads at width {tower.width}, "
                f"where published CLIPs have {published}; OpenAI's format cannot say "
                "so; use --to=huggingface"
            )
        if tower.activation != "quick_gelu":
            warn(f"the {name} tower has {tower.activation}, which OpenAI's code lacks")


class _Writer(NamedTuple):
    """A format.

    Attributes:
        write: writes a source into a folder.
        takes_lora: whether it has a place for LoRA; else it is added to the weights.
    """

    write: Callable[[ClipSource, Path], None]
    takes_lora: bool = False


_WRITERS = {
    "huggingface": _Writer(write_hugging_face),
    "torch": _Writer(_write_for_torch, takes_lora=True),
    "openai": _Writer(_write_openai),
    "modelscope": _Writer(_write_modelscope),
}
