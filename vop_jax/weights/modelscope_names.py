"""The authors' released model: a CLIP, copies of its parts, and the prompts."""

from collections.abc import Mapping

import numpy as np

from data_pipelines.console.errors import UserError
from vop_jax.weights.name_tables import OPENAI
from vop_jax.weights.renames import to_theirs
from vop_jax.weights.tensors import Tensor

# The release holds a complete CLIP, and copies of its parts under the encoders that use
# them. Prefix of a copy -> prefix of the original.
PREFIX = "clip."
_COPIES = {"image_encoder.": "visual.", "text_encoder.": ""}
MODELSCOPE_PROMPTS = {
    "text_prompt_learner.text_prompts": "text_prompts",
    "visual_prompt_learner.visual_prompts": "video_prompts",
}


def split_modelscope(
    tensors: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """Splits the authors' release: the CLIP under OpenAI's names, and the prompts.

    Also returns the name in the file and the shape there of each prompt's tensor.
    """
    clip, prompts = {}, {}
    for name, tensor in tensors.items():
        if name.startswith(PREFIX):
            clip[name.removeprefix(PREFIX)] = tensor
    for name, tensor in tensors.items():
        if name in MODELSCOPE_PROMPTS:
            prompts[MODELSCOPE_PROMPTS[name]] = _prompts(name, tensor, where)
            continue
        if name.startswith(PREFIX):
            continue
        prefix = next((x for x in _COPIES if name.startswith(x)), None)
        original = prefix and _COPIES[prefix] + name.removeprefix(prefix)
        if original not in clip:
            raise UserError(f"{where} holds {name}, which no released VoP has")
        # They are one tensor in the release; two that differ would be two models.
        if not np.array_equal(tensor.read(), clip[original].read()):
            raise UserError(
                f"{where}: {name} and {PREFIX}{original} differ, but they are one "
                "tensor in the released model"
            )
    if prompts and len(prompts) < len(MODELSCOPE_PROMPTS):
        raise UserError(f"{where} lacks one of {', '.join(MODELSCOPE_PROMPTS)}")
    origins = {
        ours: f"{theirs} has shape {list(tensors[theirs].shape)}"
        for theirs, ours in MODELSCOPE_PROMPTS.items()
        if theirs in tensors
    }
    return clip, prompts, origins


def _prompts(name: str, tensor: Tensor, where: str) -> Tensor:
    """Prompts `[K, P, D]`; video prompts are stored as `[K, 1, P, D]`."""
    shape = tensor.shape
    if len(shape) == 4 and shape[1] == 1:
        shape = (shape[0], *shape[2:])
    if len(shape) != 3:
        raise UserError(f"{where}: {name} has shape {list(tensor.shape)}")
    return Tensor(shape, lambda: tensor.read().reshape(shape))


def to_modelscope(
    clip: Mapping[str, Tensor], prompts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A CLIP and its prompts under the names of the authors' released model."""
    openai = to_theirs(OPENAI, clip)
    named = {PREFIX + name: tensor for name, tensor in openai.items()}
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
