"""The released checkpoints of DGL: a CLIP, and the prompts among its tensors."""

import dataclasses
from collections.abc import Mapping

from data_pipelines.console.errors import UserError
from vop_jax.weights.renames import ROWS, SAME, Rename, both, split, to_ours
from vop_jax.weights.tensors import Tensor

_GLOBAL = Rename("visual.prompt_embeddings", ("global_prompts",), ROWS)
_MATRIX = dataclasses.replace(SAME, axes=(2,))
_LAYER, _BLOCK = "PromptTransformer.resblocks.0", "dgl.block"
# A tensor that every checkpoint of a form has -> the names of its prompts in
# `tuned.safetensors`.
_FORMS = {
    "visual_prompt_embedding": (
        _GLOBAL,
        Rename("visual_prompt_embedding", ("latent",), ROWS),
        *both("prefix_text_prompt_proj_layer", "text_prefix"),
        *both("postfix_text_prompt_proj_layer", "text_postfix"),
    ),
    "unified_prompt_embedding.weight": (
        _GLOBAL,
        Rename("unified_prompt_embedding.weight", ("latent",), _MATRIX),
        *both(f"{_LAYER}.ln_1", f"{_BLOCK}.layer_norm1"),
        *split(
            f"{_LAYER}.attn.in_proj_", [f"{_BLOCK}.self_attn.{x}_proj" for x in "qkv"]
        ),
        *both(f"{_LAYER}.attn.out_proj", f"{_BLOCK}.self_attn.out_proj"),
        *both(f"{_LAYER}.ln_2", f"{_BLOCK}.layer_norm2"),
        *both(f"{_LAYER}.mlp.c_fc", f"{_BLOCK}.mlp.fc1"),
        *both(f"{_LAYER}.mlp.c_proj", f"{_BLOCK}.mlp.fc2"),
        *both("unified_prompt_mlp.c_fc", "dgl.text_mlp.fc1"),
        *both("unified_prompt_mlp.c_proj", "dgl.text_mlp.fc2"),
    ),
}
# A buffer, and a parameter that the released model has and does not use.
_UNUSED = ("visual.position_ids", "visual.frame_embedding")


def is_dgl(names: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether a released model, whose CLIP lies under a prefix, is one of DGL."""
    return f"{prefix}{_GLOBAL.theirs}" in names


def split_dgl(
    tensors: Mapping[str, Tensor], prefix: str, where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """Splits a released DGL: the CLIP under OpenAI's names, and the prompts.

    Also returns the name in the file and the shape there of each prompt's tensor.

    Args:
        tensors: all of it.
        prefix: of every name.
        where: names the file in an error.

    Raises:
        UserError: one of the prompts' tensors is missing or has another form, or a
            tensor is of no released model.
    """
    clip = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            raise UserError(f"{where} holds {name}, which no released DGL has")
        clip[name.removeprefix(prefix)] = tensor
    clip = {name: x for name, x in clip.items() if name not in _UNUSED}
    # Without a latent the linear form's is the one that is missing.
    mark = next((x for x in reversed(_FORMS) if x in clip), next(iter(_FORMS)))
    theirs = {x.theirs for x in _FORMS[mark]}
    prompts = {name: clip.pop(name) for name in theirs if name in clip}
    for name in (_GLOBAL.theirs, "visual_prompt_embedding"):
        shape = prompts[name].shape if name in prompts else (1,)
        if shape[:1] != (1,):
            raise UserError(f"{where}: {name} has shape {list(shape)}; its first is 1")
    named = to_ours(_FORMS[mark], prompts, where)
    origins = {
        ours: f"{x.theirs} has shape {list(prompts[x.theirs].shape)}"
        for x in _FORMS[mark]
        for ours in x.ours
    }
    return clip, named, origins
