"""A CLIP in anybody's files: recognised by what is in them, nothing read yet."""

import json
import math
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.errors import UserError
from vop_jax.backbone import check_clip, find_folder, load_size
from vop_jax.clip_layouts import recognise
from vop_jax.demo import BACKBONE
from vop_jax.layers import ACTIVATIONS
from vop_jax.prompts import PromptConfig
from vop_jax.run_folder import RunFolder
from vop_jax.sizes import ClipSize, TowerSize
from vop_jax.towers import PIXEL_DEVIATION, PIXEL_MEAN
from vop_jax.tuned import TUNED, metadata_of, read_tuned
from vop_jax.weight_files import Tensor, Weights, open_weights, tensor_of

# F of the authors' released model.
_MODELSCOPE_FRAMES = 12


class ClipSource(NamedTuple):
    """What was found.

    Attributes:
        format: as `clip_layouts.NamedModel` has it.
        size: of the CLIP.
        clip: its tensors under Hugging Face's names, what was tuned in them included.
        added: what was added to it, under the names of `tuned.safetensors`.
        metadata: of what was tuned, empty for a bare CLIP; `backbone_sha256` is that
            of the files it was read from.
        folder: where tokenizer files may be, or None.
        weights: the files.
        assumed: what the files did not say and was taken for granted, or empty.
    """

    format: str
    size: ClipSize
    clip: dict[str, Tensor]
    added: dict[str, Tensor]
    metadata: dict[str, Any]
    folder: Path | None
    weights: Weights
    assumed: str


def open_clip_source(path: Path, activation: str, stack: ExitStack) -> ClipSource:
    """Finds a CLIP and what was tuned on it.

    Args:
        path: a file of weights, a folder that holds some, or a run's folder.
        activation: `quick_gelu` or `gelu` where the files do not say it, or empty.
        stack: closes the files in the end.

    Raises:
        UserError: missing, damaged, no CLIP, or without a word on its activation.
    """
    path = path.expanduser()
    run, tuned_file = RunFolder(path), path / TUNED
    if run.is_run():
        backbone = run.read_config()["backbone"]
        path = find_folder(BACKBONE if backbone == "demo" else backbone)
    weights = open_weights(path, stack)
    where = str(weights.path)
    model = recognise(weights.tensors, where)
    folder = weights.path.parent
    if model.format == "huggingface":
        size, assumed = load_size(folder), ""
        if activation not in ("", size.vision.activation):
            raise UserError(
                f"--activation={activation}, but {folder / 'config.json'} says "
                f"{size.vision.activation}"
            )
    else:
        heads, stated = _open_clip_config(folder, weights)
        activation, assumed = _activation(model.format, weights, stated, activation)
        size = size_of(model.clip, heads, activation, where)
    _check_pixels(folder)
    check_clip(size, model.clip, where)
    clip, added, metadata = dict(model.clip), model.prompts, {}
    if added:
        metadata = _modelscope_metadata(size, added)
    elif tuned_file.is_file():
        named, metadata = read_tuned(tuned_file)
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
        folder if path.is_dir() else None,
        weights,
        assumed,
    )


def size_of(
    clip: Mapping[str, Tensor], heads: tuple[int, int], activation: str, where: str
) -> ClipSize:
    """The shape of a CLIP, told from its tensors.

    Args:
        clip: under Hugging Face's names.
        heads: of the vision and the text tower; 0 means one for each 64 of its width,
            which is all that files of OpenAI's kind allow.
        activation: of both towers.
        where: what to call the source in an error.
    """

    def tower(model: str, heads: int) -> TowerSize:
        pattern = re.compile(rf"{model}\.encoder\.layers\.(\d+)\..*")
        numbers = {int(found[1]) for name in clip if (found := pattern.match(name))}
        width = clip[f"{model}.encoder.layers.0.layer_norm1.weight"].shape[0]
        mlp = clip[f"{model}.encoder.layers.0.mlp.fc1.weight"].shape[0]
        heads = heads or width // 64
        if not heads or width % heads or len(numbers) < 2:
            raise UserError(
                f"{where}: a tower of {len(numbers)} layers, width {width} and {heads} "
                "heads is no CLIP's"
            )
        return TowerSize(width, len(numbers), heads, mlp, activation)

    patches = clip["vision_model.embeddings.patch_embedding.weight"].shape
    positions = clip["vision_model.embeddings.position_embedding.weight"].shape[0]
    side = math.isqrt(positions - 1)
    if len(patches) != 4 or side * side != positions - 1:
        raise UserError(f"{where}: {positions - 1} patches are no square image's")
    vocabulary = clip["text_model.embeddings.token_embedding.weight"].shape[0]
    return ClipSize(
        vision=tower("vision_model", heads[0]),
        text=tower("text_model", heads[1]),
        image_size=side * patches[-1],
        patch_size=patches[-1],
        vocabulary=vocabulary,
        context_length=clip["text_model.embeddings.position_embedding.weight"].shape[0],
        embedding=clip["text_projection.weight"].shape[0],
        eos_id=vocabulary - 1,
    )


def _activation(
    form: str, weights: Weights, stated: str, asked: str
) -> tuple[str, str]:
    """The activation, and what was assumed to know it.

    OpenAI's and the authors' CLIPs have QuickGELU; open_clip's files look the same and
    have either.
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
    if (
        named
        or weights.wrapped
        or any(x.startswith("module.") for x in weights.tensors)
    ):
        raise UserError(
            f"{weights.path} does not say its activation; say --activation=quick_gelu "
            "(open_clip's models called -quickgelu, and all of OpenAI's weights) or "
            "--activation=gelu (its others)"
        )
    return "quick_gelu", "activation quick_gelu, as OpenAI's weights have it"


def _open_clip_config(folder: Path, weights: Weights) -> tuple[tuple[int, int], str]:
    """The towers' heads and the activation that an open_clip_config.json states."""
    path = folder / "open_clip_config.json"
    if not path.is_file() or not weights.path.name.startswith("open_clip"):
        return (0, 0), ""
    try:
        model = json.loads(path.read_text())["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        if not isinstance(vision["layers"], int):
            raise ValueError("its vision tower is a ResNet")
        heads = vision["width"] // vision.get("head_width", 64), text["heads"]
        quick = model.get("quick_gelu", False)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} does not describe a ViT CLIP ({error!r})") from None
    return heads, "quick_gelu" if quick else "gelu"


def _check_pixels(folder: Path) -> None:
    """Makes sure that a model was trained with OpenAI's pixel statistics.

    They are folded into the patch embedding. Others would want a bias there.
    """
    for name, keys in (
        ("preprocessor_config.json", ("image_mean", "image_std")),
        ("open_clip_config.json", ("mean", "std")),
    ):
        if not (folder / name).is_file():
            continue
        try:
            config = json.loads((folder / name).read_text())
            config = config.get("preprocess_cfg", config)
            stated = [config.get(key) for key in keys]
        except (AttributeError, ValueError) as error:
            raise UserError(f"{folder / name} is damaged ({error})") from None
        for values, ours in zip(stated, (PIXEL_MEAN, PIXEL_DEVIATION), strict=True):
            if values is not None and list(values) != list(ours):
                raise UserError(
                    f"{folder / name}: pixel statistics {values} are not OpenAI's; "
                    "such a CLIP is not supported"
                )


def _modelscope_metadata(size: ClipSize, added: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the authors' released checkpoint would have said of itself."""
    prompts = PromptConfig(
        text_length=added["text_prompts"].shape[1],
        video_length=added["video_prompts"].shape[1],
        num_frames=_MODELSCOPE_FRAMES,
        text_layout="modelscope",
    )
    return metadata_of("vop", prompts, size.vision.layers, None)
