"""The metadata of a `tuned.safetensors`: the method, and what no shape says."""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Ge, Le
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import Matches, described, parse_json, shown
from vop_jax.model.methods import find_method
from vop_jax.model.prompts.config import PromptConfig

FORMAT = 1
# The fields of `PromptConfig` that say how many tokens are merged.
MERGED = ("merged_per_layer", "merge_share_before", "merge_share_after")
# Fields that a file's shapes say as well, but not if all tensors of one were lost.
COUNTS = ("lora_rank", "global_length", "fusion_layers", "merge_layers")
# Key -> the count without which it says nothing.
OWNERS = {"lora_parts": "lora_rank", **dict.fromkeys(MERGED, "merge_layers")}


def metadata_of(
    method: str,
    prompts: PromptConfig,
    layers: int,
    backbone_sha256: str | None,
    *,
    renormalize_video: bool = False,
) -> dict[str, Any]:
    """The metadata of a model's file.

    Args:
        method: a row of the method table.
        prompts: the prompt configuration.
        layers: number of layers of the vision tower.
        backbone_sha256: of the backbone; None fits any.
        renormalize_video: see `DualEncoder`.
    """
    unusual = {
        "first_layer": (prompts.first_layer, 1),
        "cmm_role": (prompts.cmm_role, "prompts"),
        "renormalize_video": (renormalize_video, False),
        **{
            key: (getattr(prompts, key), getattr(PromptConfig, key))
            for key in (*COUNTS, *OWNERS)
            if getattr(prompts, OWNERS.get(key, key))
        },
    }
    return {
        "method": method,
        "num_frames": prompts.num_frames,
        "split_layer": prompts.split(layers),
        "text_layout": prompts.text_layout,
        "backbone_sha256": backbone_sha256,
    } | {key: value for key, (value, usual) in unusual.items() if value != usual}


_Share = Annotated[float, Ge(0), Le(1)]
_Layer = Annotated[int, Ge(0), Le(1_024)]
_Count = Annotated[int, Ge(0), Le(4_096)]


class Metadata(TypedDict):
    """The JSON under the key `vop_jax` of a file's metadata."""

    format: int
    method: Annotated[str, Matches("^[A-Za-z0-9_]{1,100}$")]
    num_frames: Annotated[int, Ge(1), Le(4_096)]
    split_layer: _Layer
    text_layout: Literal["prefix", "modelscope"]
    backbone_sha256: Annotated[str, Matches("^[0-9a-f]{64}$")] | None
    first_layer: NotRequired[Annotated[int, Ge(1), Le(1_024)]]
    cmm_role: NotRequired[Literal["prompts", "update_cls"]]
    lora_parts: NotRequired[Literal["qkv", "q", "k", "v", "qk", "qv", "kv"]]
    renormalize_video: NotRequired[bool]
    lora_rank: NotRequired[_Count]
    global_length: NotRequired[_Count]
    fusion_layers: NotRequired[_Count]
    merge_layers: NotRequired[_Count]
    merged_per_layer: NotRequired[_Count]
    merge_share_before: NotRequired[_Share]
    merge_share_after: NotRequired[_Share]
    tensors: NotRequired[Annotated[int, Ge(0)]]


def checked_metadata(path: Path, text: str | None) -> dict[str, Any]:
    """The JSON under the key `vop_jax` of a file's metadata."""
    if text is None:
        raise UserError(
            f"{path} was not written by vop_jax (no such key in its metadata)"
        )
    where = f"{path}: its vop_jax metadata"
    values = described(parse_json(text, where), dict, where)
    version = values.get("format")
    if version != FORMAT:
        raise UserError(
            f"{path} has format {shown(version)}; this version reads {FORMAT}"
        )
    metadata = {**described(values, Metadata, where)}
    try:
        find_method(metadata["method"])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return metadata
