"""What is trained: one table of methods, and the mask that each resolves to."""

import dataclasses
import re
from typing import Any

import jax
from flax import traverse_util

from data_pipelines.errors import UserError
from vop_jax.prompts import PromptConfig

# Everything a backbone holds. A leaf of `params` that none of these covers is an error:
# it would be frozen without anyone having decided so.
_BACKBONE = (
    r"params/(vision|text)/(layers|last_layer)/(attention|mlp|ln_[12])/.*",
    r"params/(vision|text)/(ln_pre|ln_post|ln_final)/.*",
    r"params/(vision|text)/(position_embedding|projection)",
    r"params/vision/(class_embedding|patch_embedding)",
    r"params/text/token_embedding",
    r"params/logit_scale",
)
_PROMPTS = (r"prompts/.*",)


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the paper's Table 1.

    Attributes:
        trained: patterns of the leaves that train; each leaf may match one only.
        text_length: prompts of each text layer.
        video_length: prompts shared by all frames of each per-frame layer.
        position_length: prompts of each frame position (P).
        context_length: prompts generated from the frames' context (C).
        joint_layers: whether the last third of the layers attends jointly (F).
        adapter: what adapters stand beside, `attention` or `mlp`.
    """

    trained: tuple[str, ...] = ()
    text_length: int = 0
    video_length: int = 0
    position_length: int = 0
    context_length: int = 0
    joint_layers: bool = False
    adapter: str = ""

    def prompt_config(self, layers: int, num_frames: int = 12) -> PromptConfig:
        """The method's additions to a vision tower of that many layers.

        The paper splits 12 layers after the 8th; the demo's 4 after the 3rd.
        """
        joint = max(1, layers // 3) if self.joint_layers else 0
        return PromptConfig(
            text_length=self.text_length,
            video_length=self.video_length,
            position_length=self.position_length,
            context_length=self.context_length,
            joint_length=self.text_length if joint else 0,
            split_layer=layers - joint if joint else -1,
            num_frames=num_frames,
            adapter=self.adapter,
        )


METHODS = {
    "zero_shot": Method(),
    "full": Method(trained=_BACKBONE),
    "bias": Method(trained=(r"params/.*/bias",)),
    "proj": Method(trained=(r"params/(vision|text)/projection",)),
    "partial": Method(trained=(r"params/(vision|text)/last_layer/.*",)),
    "adapter_attn": Method(_PROMPTS, adapter="attention"),
    "adapter_ffn": Method(_PROMPTS, adapter="mlp"),
    "vop": Method(_PROMPTS, text_length=8, video_length=8),
    "vop_p": Method(_PROMPTS, text_length=8, video_length=4, position_length=4),
    "vop_c": Method(_PROMPTS, text_length=8, video_length=4, context_length=4),
    "vop_f": Method(_PROMPTS, text_length=8, video_length=8, joint_layers=True),
    "vop_fp": Method(
        _PROMPTS, text_length=8, video_length=4, position_length=4, joint_layers=True
    ),
    "vop_fc": Method(
        _PROMPTS, text_length=8, video_length=4, context_length=4, joint_layers=True
    ),
}


def find_method(name: str) -> Method:
    """The row of that name.

    Raises:
        UserError: there is none.
    """
    if name not in METHODS:
        raise UserError(f"method {name!r} is not one of {', '.join(METHODS)}")
    return METHODS[name]


def paths(variables: Any) -> dict[str, Any]:
    """The leaves of a variable tree by path, `collection/module/name`."""
    return traverse_util.flatten_dict(dict(variables), sep="/")


def trained_mask(variables: Any, trained: tuple[str, ...]) -> Any:
    """Which leaves train.

    Args:
        variables: the collections `params` and `prompts`, arrays or shapes.
        trained: patterns of whole paths.

    Returns:
        A tree of the same structure with True where a leaf trains.

    Raises:
        ValueError: a pattern without a leaf, a leaf with two patterns, a prompt that
            would not train, or a leaf nobody has decided about.
    """
    leaves = paths(variables)
    used = set()
    mask = {}
    for path in leaves:
        matching = [x for x in trained if re.fullmatch(x, path)]
        if len(matching) > 1:
            raise ValueError(f"{path} is claimed by {' and by '.join(matching)}")
        used.update(matching)
        covered = any(re.fullmatch(x, path) for x in _BACKBONE)
        if not matching and not covered:
            raise ValueError(f"no rule says whether {path} trains")
        mask[path] = bool(matching)
    unused = [x for x in trained if x not in used]
    if unused:
        raise ValueError(f"no leaf matches {', '.join(unused)}")
    return traverse_util.unflatten_dict(mask, sep="/")


def trained_leaves(variables: Any, mask: Any) -> list[tuple[str, tuple[int, ...], int]]:
    """(path, shape, number of values) of what trains, in the tree's order."""
    chosen = paths(mask)
    return [
        (path, tuple(leaf.shape), leaf.size)
        for path, leaf in paths(variables).items()
        if chosen[path]
    ]


def count_trained(variables: Any, mask: Any) -> int:
    """How many numbers train."""
    return sum(size for _, _, size in trained_leaves(variables, mask))


def select(variables: Any, mask: Any, *, trained: bool) -> Any:
    """Keeps the trained (or the frozen) leaves, an empty node in place of the rest."""
    import optax

    return jax.tree.map(
        lambda leaf, chosen: leaf if chosen == trained else optax.MaskedNode(),
        variables,
        mask,
    )
