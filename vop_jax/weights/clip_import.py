"""Opens a CLIP in any known format, recognised by its content; reads no tensor yet."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

from annotated_types import Ge, Le
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, read_json
from vop_jax.model.clip.layers import ACTIVATIONS
from vop_jax.model.clip.sizes import ClipSize, TextSize, VisionSize
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.weights.backbone import check_clip
from vop_jax.weights.clip_names import recognise
from vop_jax.weights.file_names import TUNED
from vop_jax.weights.hugging_face_config import load_size
from vop_jax.weights.locate import BACKBONE, find_folder
from vop_jax.weights.preprocessing import HUGGING_FACE, OPEN_CLIP, stated_frames
from vop_jax.weights.records import is_wrapped
from vop_jax.weights.special_tokens import end_token
from vop_jax.weights.tensors import Tensor, Weights, open_weights, tensor_of
from vop_jax.weights.tuned import load_tuned, metadata_of, read_tuned

# F of the authors' released model.
_MODELSCOPE_FRAMES = 12
# Tower -> width -> heads of every ViT that OpenAI, LAION, MetaCLIP or open_clip have
# published (open_clip 3.3.0, `model_configs`).
PUBLISHED_HEADS = {
    "vision": {
        **{384: 6, 512: 8, 768: 12, 896: 14, 1024: 16},
        **{1280: 16, 1408: 16, 1664: 16, 1792: 16},
    },
    "text": {256: 4, 384: 6, 512: 8, 640: 10, 768: 12, 1024: 16, 1280: 20},
}
# Up to this width all published towers have heads of 64, as OpenAI's code assumes.
_WIDEST_OF_64 = 1024


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
    """

    format: str
    size: ClipSize
    clip: dict[str, Tensor]
    added: dict[str, Tensor]
    metadata: dict[str, Any]
    folder: Path | None
    weights: Weights
    assumed: str


def open_clip_source(
    path: Path, activation: str, stack: ExitStack, heads: tuple[int, int] = (0, 0)
) -> ClipSource:
    """Opens a CLIP and what was tuned on it.

    Args:
        path: a file of weights, a folder with weights, or a run's folder.
        activation: `quick_gelu` or `gelu` if the files do not state it, or empty.
        stack: closes the files at the end.
        heads: of the vision and the text tower if the files do not state it, or 0.

    Raises:
        UserError: missing, damaged, not a CLIP, trained with another preprocessing, or
            its activation or heads are unknown.
    """
    # A run's folder names its backbone and holds what was tuned on it.
    path = find_folder(path)
    run, tuned_file = RunFolder(path), path / TUNED
    if run.is_run():
        backbone = run.read_backbone()
        path = find_folder(BACKBONE if backbone == "demo" else backbone)
    # Recognise the format by the names of the tensors.
    weights = open_weights(path, stack)
    where = str(weights.path)
    model = recognise(weights.tensors, where)
    folder = weights.path.parent
    tokenizer = folder if path.is_dir() else None
    # Determine the sizes: from config.json, or from shapes and other hints.
    if model.format == "huggingface":
        size, assumed = load_size(folder), ""
        _agree(heads, (size.vision.heads, size.text.heads), folder / "config.json")
        if activation not in ("", size.vision.activation):
            raise UserError(
                f"--activation={activation}, but {folder / 'config.json'} says "
                f"{size.vision.activation}"
            )
    else:
        named, stated = open_clip_config(folder, weights)
        if any(named):
            heads = _agree(heads, named, folder / "open_clip_config.json")
        activation, assumed = _activation(model.format, weights, stated, activation)
        size, guessed = size_of(model.clip, heads, activation, where)
        end = end_token(tokenizer, size.vocabulary, None, where)
        size = dataclasses.replace(size, eos_id=end)
        assumed = "; ".join(filter(None, [assumed, guessed]))
    # Validate, then apply what was tuned on the CLIP.
    order = HUGGING_FACE if model.format == "huggingface" else OPEN_CLIP
    frames = stated_frames(*(folder, size.image_size, size.frames, order), warned=True)
    size = dataclasses.replace(size, frames=frames)
    check_clip(size, model.clip, where)
    clip, added, metadata = dict(model.clip), model.prompts, {}
    if added:
        metadata = _modelscope_metadata(size, added)
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
    )


def heads_of(tower: str, width: int) -> int:
    """The number of heads of a tower of that width; 0 if unknown."""
    known = PUBLISHED_HEADS[tower].get(width, 0)
    of_64 = width // 64 if width <= _WIDEST_OF_64 and width % 64 == 0 else 0
    return known or of_64


def _agree(
    asked: tuple[int, int], stated: tuple[int, int], path: Path
) -> tuple[int, int]:
    """The heads that a file states; an error if others are asked for."""
    if any(a not in (0, b) for a, b in zip(asked, stated, strict=True)):
        raise UserError(
            f"--heads={asked[0]},{asked[1]}, but {path} says {stated[0]},{stated[1]}"
        )
    return stated


def size_of(
    clip: Mapping[str, Tensor], heads: tuple[int, int], activation: str, where: str
) -> tuple[ClipSize, str]:
    """Infers the sizes of a CLIP from its tensors.

    Args:
        clip: under Hugging Face's names.
        heads: of the vision and the text tower; 0 means those of `heads_of`.
        activation: of both towers.
        where: names the source in an error.

    Returns:
        The sizes, with the highest id as the EOT token; and the assumptions made, or
        empty.

    Raises:
        UserError: the shapes are not a CLIP's, or the number of heads is unknown.
    """
    assumed = []

    def shape(name: str, axes: int) -> tuple[int, ...]:
        found = clip[name].shape
        if len(found) != axes:
            raise UserError(f"{where}: {name} has {len(found)} axes instead of {axes}")
        return found

    def tower(kind: str, heads: int) -> dict[str, Any]:
        model = f"{kind}_model"
        pattern = re.compile(rf"{model}\.encoder\.layers\.(\d+)\..*")
        numbers = {int(found[1]) for name in clip if (found := pattern.match(name))}
        (width,) = shape(f"{model}.encoder.layers.0.layer_norm1.weight", 1)
        mlp, _ = shape(f"{model}.encoder.layers.0.mlp.fc1.weight", 2)
        if not heads and len(numbers) > 1:
            heads = heads_of(kind, width)
            if not heads:
                raise UserError(
                    f"{where} does not say how many heads its {kind} tower of width "
                    f"{width} has, and no published CLIP's has that width; pass "
                    "--heads=VISION,TEXT"
                )
            if width not in PUBLISHED_HEADS[kind]:
                assumed.append(f"{heads} heads of 64 in the {kind} tower")
        if not heads or width % heads or len(numbers) < 2:
            raise UserError(
                f"{where}: a tower of {len(numbers)} layers, width {width} and {heads} "
                "heads is not a CLIP's"
            )
        return {
            "width": width,
            "layers": len(numbers),
            "heads": heads,
            "mlp": mlp,
            "activation": activation,
        }

    # The image: patches form a square, besides the class token's position.
    *_, patch = shape("vision_model.embeddings.patch_embedding.weight", 4)
    positions, _ = shape("vision_model.embeddings.position_embedding.weight", 2)
    side = math.isqrt(max(positions - 1, 0))
    if not side or side * side != positions - 1:
        raise UserError(f"{where}: {positions - 1} patches are not a square image's")
    # The text, and the shared embedding.
    vocabulary, _ = shape("text_model.embeddings.token_embedding.weight", 2)
    context, _ = shape("text_model.embeddings.position_embedding.weight", 2)
    embedding, _ = shape("text_projection.weight", 2)
    size = ClipSize(
        vision=VisionSize(**tower("vision", heads[0])),
        text=TextSize(**tower("text", heads[1])),
        image_size=side * patch,
        patch_size=patch,
        vocabulary=vocabulary,
        context_length=context,
        embedding=embedding,
        eos_id=vocabulary - 1,
    )
    return size, "; ".join(assumed)


def _activation(
    form: str, weights: Weights, stated: str, asked: str
) -> tuple[str, str]:
    """The activation, and the assumption made, if any.

    OpenAI's and the authors' CLIPs use QuickGELU; open_clip's files look the same and
    may use either.
    """
    if stated and asked and stated != asked:
        raise UserError(
            f"--activation={asked}, but open_clip_config.json says {stated}"
        )
    if asked and asked not in ACTIVATIONS:
        raise UserError(f"--activation is one of {', '.join(ACTIVATIONS)}")
    known = asked or stated
    if known:
        return known, ""
    if weights.scripted or form == "modelscope":
        return "quick_gelu", ""
    named = weights.path.name.startswith("open_clip")
    if named or weights.wrapped or any(map(is_wrapped, weights.tensors)):
        raise UserError(
            f"{weights.path} does not say its activation; pass --activation=quick_gelu "
            "(open_clip's models called -quickgelu, and all of OpenAI's weights) or "
            "--activation=gelu (its others)"
        )
    return "quick_gelu", "activation quick_gelu, as OpenAI's weights have it"


_Width = Annotated[int, Ge(1), Le(16_384)]


class OpenClipVision(TypedDict):
    """A `vision_cfg` of open_clip; the `layers` of a ResNet are a list."""

    layers: _Width
    width: _Width
    head_width: NotRequired[_Width]


class OpenClipText(TypedDict):
    """A `text_cfg` of open_clip."""

    heads: _Width


class OpenClipModel(TypedDict):
    """A `model_cfg` of open_clip."""

    vision_cfg: OpenClipVision
    text_cfg: OpenClipText
    quick_gelu: NotRequired[bool]


class OpenClip(TypedDict):
    """The fields of an `open_clip_config.json` that are read."""

    model_cfg: OpenClipModel


def open_clip_config(folder: Path, weights: Weights) -> tuple[tuple[int, int], str]:
    """The heads of both towers and the activation in an open_clip_config.json."""
    path = folder / "open_clip_config.json"
    if not weights.path.name.startswith("open_clip") or not os.path.lexists(path):
        return (0, 0), ""
    where = f"{path} does not describe a ViT CLIP"
    model = described(read_json(path), OpenClip, where)["model_cfg"]
    vision, text = model["vision_cfg"], model["text_cfg"]
    width, part = vision["width"], vision.get("head_width", 64)
    if width % part:
        raise UserError(
            f"{where}: model_cfg.vision_cfg.head_width is {part}; it must divide the "
            f"width of {width}"
        )
    heads = width // part, text["heads"]
    quick = model.get("quick_gelu", False)
    return heads, "quick_gelu" if quick else "gelu"


def _modelscope_metadata(size: ClipSize, added: Mapping[str, Tensor]) -> dict[str, Any]:
    """The metadata that describes the authors' released checkpoint."""
    prompts = PromptConfig(
        text_length=added["text_prompts"].shape[1],
        video_length=added["video_prompts"].shape[1],
        num_frames=_MODELSCOPE_FRAMES,
        text_layout="modelscope",
    )
    return metadata_of("vop", prompts, size.vision.layers, None)
