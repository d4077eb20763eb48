"""Writes a CLIP, and what was tuned on it, in anybody's format."""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.terminal import progress, say, warn
from vop_jax.backbone import file_sha256, save_size
from vop_jax.clip_layouts import MODELSCOPE_PROMPTS, to_modelscope, to_openai
from vop_jax.clip_source import ClipSource, open_clip_source
from vop_jax.torch_writer import write_torch
from vop_jax.tuned import TUNED, write_tuned
from vop_jax.weight_files import WEIGHTS, Tensor, write_safetensors

# sha256 of OpenAI's files, as their own download addresses state it.
OFFICIAL = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B/32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B/16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L/14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": (
        "ViT-L/14@336px"
    ),
}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)


def convert(path: Path, output: Path, target: str, activation: str = "") -> None:
    """Converts a checkpoint; the output appears whole or not at all.

    Args:
        path: see `clip_source.open_clip_source`.
        output: a folder that does not exist yet.
        target: `huggingface`, `openai` or `modelscope`.
        activation: see `clip_source.open_clip_source`.

    Raises:
        UserError: the input is missing, damaged or no CLIP, the output exists, or the
            target has no place for what the input holds.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists already; give another --output")
    with ExitStack() as stack:
        source = open_clip_source(path, activation, stack)
        for file in source.weights.files:
            sha256 = file_sha256(file)
            known = OFFICIAL.get(sha256)
            note = f", OpenAI's {known}" if known else ""
            say(f"{file}: sha256 {sha256}{note}")
        if source.assumed:
            warn(f"{path} does not say it, so taken for granted: {source.assumed}")
        partial = output.with_name(f".{output.name}.partial")
        # What a conversion left that was killed.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        _WRITERS[target](source, partial)
        if output.is_dir():
            output.rmdir()
        os.replace(partial, output)
    say(f"{source.format} -> {target}: {output}")


def _written(tensors: Mapping[str, Tensor], write: Callable[[Any], None]) -> None:
    """Runs a writer that tells each tensor's bytes, and shows how far it is."""
    size = sum(4 * math.prod(tensor.shape) for tensor in tensors.values())
    with progress("converting", round(size / 1e6), "MB") as bar:
        write(lambda count: bar.advance(count / 1e6))


def _write_hugging_face(source: ClipSource, folder: Path) -> None:
    weights = folder / WEIGHTS
    _written(
        source.clip,
        lambda told: write_safetensors(weights, source.clip, on_written=told),
    )
    save_size(folder, source.size)
    for name in _TOKENIZER_FILES:
        if source.folder is not None and (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)
    if source.added:
        named = {name: tensor.read() for name, tensor in source.added.items()}
        metadata = source.metadata | {"backbone_sha256": file_sha256(weights)}
        metadata.pop("format", None)
        write_tuned(folder / TUNED, named, metadata)


def _write_openai(source: ClipSource, folder: Path) -> None:

    if source.added:
        raise UserError(
            f"OpenAI's format has no place for {', '.join(sorted(source.added)[:3])}; "
            "give --to=huggingface, or the bare CLIP"
        )
    _check_openai_size(source)
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
            f"with text_layout={metadata['text_layout']}; give --to=huggingface"
        )
    _check_openai_size(source)
    # The names that the authors' code opens.
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


def _check_openai_size(source: ClipSource) -> None:
    """Makes sure that code which knows shapes alone builds the same model."""
    for name in ("vision", "text"):
        tower = getattr(source.size, name)
        if tower.heads != tower.width // 64 or tower.mlp != 4 * tower.width:
            raise UserError(
                f"the {name} tower has {tower.heads} heads and a feed-forward part of "
                f"{tower.mlp} at width {tower.width}; OpenAI's code takes "
                f"{tower.width // 64} and {4 * tower.width}; give --to=huggingface"
            )
        if tower.activation != "quick_gelu":
            warn(f"the {name} tower has {tower.activation}, which OpenAI's code lacks")


_WRITERS = {
    "huggingface": _write_hugging_face,
    "openai": _write_openai,
    "modelscope": _write_modelscope,
}
