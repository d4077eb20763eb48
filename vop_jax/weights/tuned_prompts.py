"""The prompt configuration of a tuned file, read off its names and shapes."""

import re
from collections.abc import Mapping
from typing import Any

from data_pipelines.console.errors import UserError
from data_pipelines.console.ranges import check_ranges
from data_pipelines.files.json_files import described, shown
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.prompts.config import BEHIND, PLACES, PromptConfig
from vop_jax.model.prompts.text_layout import prompt_slots
from vop_jax.weights.tuned_metadata import COUNTS, FORMAT, MERGED, OWNERS, Metadata

# Field of `PromptConfig` -> the tensor that says that it is used.
_TENSORS = {
    "global_length": "global_prompts",
    "fusion_layers": "fusion.down.weight",
    "merge_layers": "merge.positions.0",
    "adapter": "adapters.vision.after_mlp.down.weight",
}
_LORA = ("lora.vision.A", "lora.text.A")
# A form of the latent -> a tensor that it alone has.
_LATENTS = {"transformer": "dgl.text_mlp.fc1.weight"}
_POSITIONS = re.compile(r"merge\.positions\.\d+")
_ADAPTER = re.compile(rf"adapters\.((vision|text)\.({'|'.join(PLACES)}|tie)\.|shared$)")
# Start, a word, EOT.
_SHORTEST_CAPTION = 3


def prompt_config(
    shapes: Mapping[str, tuple[int, ...]],
    metadata: dict[str, Any],
    size: ClipSize,
    where: str,
    origins: Mapping[str, str] | None = None,
) -> PromptConfig:
    """Infers the prompt configuration from a file's names, shapes and metadata.

    Args:
        shapes: of all tensors of the file, by name.
        metadata: see `tuned.Tuned`.
        size: of the backbone.
        where: names the file in an error.
        origins: name -> what a released file that also holds its backbone calls the
            tensor, and its shape there ("x has shape [1, 4]").

    Raises:
        UserError: a part of the file cannot be, does not go with another, or does not
            fit the backbone.
    """
    described({"format": FORMAT, **metadata}, Metadata, f"{where}: its metadata")
    try:
        prompts = _inferred(shapes, metadata, size, origins or {})
        _check_stated(prompts, metadata)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    try:
        check_ranges(prompts, "config.prompts")
    except UserError as error:
        raise UserError(
            f"{where}: its tensors say that {error}; export it again"
        ) from None
    try:
        prompts.check()
    except UserError as error:
        raise UserError(
            f"{where}: its parts do not go together, as little as in a configuration "
            f"({error}); export it again"
        ) from None
    return prompts


def _inferred(
    shapes: Mapping[str, tuple[int, ...]],
    metadata: dict[str, Any],
    size: ClipSize,
    origins: Mapping[str, str],
) -> PromptConfig:
    """The configuration, before its parts are held against each other."""

    def axis(name: str, axis: int) -> int:
        if name not in shapes:
            return 0
        if len(shapes[name]) < 2:
            raise UserError(f"{name} has shape {list(shapes[name])}; export it again")
        return shapes[name][axis]

    split, first = metadata["split_layer"], metadata.get("first_layer", 1)
    # Validate names and shapes.
    adapters = [name for name in shapes if name.startswith("adapters.")]
    for name in adapters:
        if not _ADAPTER.match(name):
            raise UserError(f"{shown(name, repr)} is not an adapter; export it again")
    # An empty tensor may state any number of prompts.
    length = min(axis("text_prompts", -2), size.context_length)
    slots = prompt_slots(metadata["text_layout"], length, size.context_length)
    if slots and size.full_captions:
        raise UserError(
            f"text_prompts are laid out as {metadata['text_layout']}, but this "
            "backbone's text tower does not read the EOT token; use the backbone they "
            "were trained on"
        )
    if slots and len(slots) + _SHORTEST_CAPTION > size.context_length:
        raise UserError(
            f"text_prompts has shape {list(shapes['text_prompts'])}, which leaves no "
            f"place for a caption in the context of {size.context_length}"
        )
    fused = _fusion_layers(axis("fusion.down.weight", 0), split, size)
    joins = _merge_layers(shapes, metadata["num_frames"], split, size)
    texts = axis("fusion.text.down.weight", 0)
    if texts > size.text.layers:
        raise UserError(
            f"fusion.text.down.weight is for the last {texts} layers, but this "
            f"backbone's text tower has {size.text.layers}; use the backbone it was "
            "trained on"
        )
    # Prompts that end before their last possible layer give `last_layer`.
    downs = [name for name in adapters if name.endswith("down.weight")]
    adapter = downs[0].split(".")[2] if downs else ""
    # Table -> the layer of its first row, and the layer after its last if complete.
    spans = {
        "text_prompts": (first - 1, size.text.layers),
        "video_prompts": (first - 1, split),
        "position_prompts": (first - 1, split),
        "joint_prompts": (max(first - 1, split), size.vision.layers),
    } | {
        name: (first - 1, size.tower(name.split(".")[1]).layers)
        for name in (*downs, *_LORA)
    }
    ends = {name: start + axis(name, 0) for name, (start, _) in spans.items()}
    cut = any(ends[name] < spans[name][1] for name in spans if name in shapes)
    last = max((ends[name] for name in spans if name in shapes), default=0)
    lstm = "context.lstm.weight_ih_l0"
    carried = axis("global_prompts", 0)
    # Beside these there are no joint layers to be told from the others.
    alone = carried or fused or joins or adapter == BEHIND
    every = alone and split == size.vision.layers
    cmm = "bilstm" if f"{lstm}_reverse" in shapes else "lstm"
    prompts = PromptConfig(
        text_length=axis("text_prompts", -2),
        video_length=axis("video_prompts", -2),
        position_length=axis("position_prompts", -2),
        context_length=axis("context.fc.weight", 0) // size.vision.width,
        joint_length=axis("joint_prompts", -2),
        first_layer=first,
        last_layer=last if cut else 0,
        split_layer=-1 if every else split,
        num_frames=metadata["num_frames"],
        text_layout=metadata["text_layout"],
        cmm=cmm if lstm in shapes else "transformer",
        cmm_role=metadata.get("cmm_role", "prompts"),
        adapter=adapter,
        adapter_width=max((axis(name, 1) for name in downs), default=64),
        adapter_words=axis("adapters.text.after_mlp.positions", 1)
        or PromptConfig.adapter_words,
        lora_rank=max(axis(name, 1) for name in _LORA),
        lora_parts=metadata.get("lora_parts", PromptConfig.lora_parts),
        global_length=carried,
        latent=next((x for x, name in _LATENTS.items() if name in shapes), "linear"),
        postfix="text_postfix.weight" in shapes,
        fusion_layers=fused,
        fusion_text_layers=texts,
        fusion_width=axis("fusion.down.weight", 1)
        or axis("fusion.text.down.weight", 1)
        or PromptConfig.fusion_width,
        merge_layers=joins,
        **{name: metadata[name] for name in MERGED if name in metadata},
    )
    if unfit := prompts.unfit(size):
        field, reason = unfit
        name = _TENSORS[field]
        raise UserError(misfit_of(name, shapes.get(name, ()), reason, origins))
    return prompts


def _check_stated(prompts: PromptConfig, metadata: Mapping[str, Any]) -> None:
    """Checks that no tensors are missing as a whole, which no shape says."""
    for key in COUNTS:
        found = getattr(prompts, key)
        if metadata.get(key, found) != found:
            raise UserError(
                f"its metadata states {key} {metadata[key]}, but its tensors are for "
                f"{found}; fetch or export it again"
            )
    for key, owner in OWNERS.items():
        if key in metadata and not getattr(prompts, owner):
            raise UserError(
                f"its metadata states {key}, but there is no tensor of {owner}; fetch "
                "or export it again"
            )


def _fusion_layers(count: int, split: int, size: ClipSize) -> int:
    """The number of layers with fusion, checked against the backbone."""
    layers = size.vision.layers
    if count > layers or (count and split != layers):
        raise UserError(
            f"fusion.down.weight is for class tokens of the last {count} layers, which "
            f"attend across frames; this backbone has {layers} layers, and joint "
            f"attention after layer {split}; use the backbone it was trained on"
        )
    return count


def _merge_layers(
    shapes: Mapping[str, tuple[int, ...]], frames: int, split: int, size: ClipSize
) -> int:
    """The number of layers that join frames; each halves them but the last."""
    found = [name for name in shapes if _POSITIONS.fullmatch(name)]
    if found and split != size.vision.layers:
        raise UserError(
            f"{found[0]} is of layers that join frames, without joint attention; this "
            f"backbone has {size.vision.layers} layers, and joint attention after "
            f"layer {split}; use the backbone it was trained on"
        )
    for n in range(len(found)):
        name, rows = f"merge.positions.{n}", frames // 2**n
        if name not in shapes:
            raise UserError(f"{name} is missing; export it again")
        if shapes[name][:1] != (rows,):
            raise UserError(
                f"{name} has shape {list(shapes[name])}, but {frames} frames are "
                f"{rows} after {n} joins by 2; export it again"
            )
    return len(found)


def misfit_of(
    name: str, shape: tuple[int, ...], reason: str, origins: Mapping[str, str]
) -> str:
    """What to say of a tensor that does not fit the backbone.

    Args:
        name: of the tensor.
        shape: its shape.
        reason: the end of a sentence.
        origins: as of `prompt_config`.
    """
    # A file with a backbone of its own has names of its own, too.
    if name in origins:
        return (
            f"{origins[name]}, which does not fit the CLIP and the prompts beside it; "
            "fetch the file again"
        )
    return (
        f"{name} has shape {list(shape)}, but {reason}; use the backbone it was "
        "trained on"
    )
