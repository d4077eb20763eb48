"""The number of parameters that a method trains, and the number the paper counts."""

import re
from typing import NamedTuple

from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.methods import METHODS
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.trained import lacking_parameters, trained_mask
from vop_jax.model.tree_paths import paths

# Parameters whose name in OpenAI's CLIP ends neither in .weight nor in .bias, and the
# frame positions, which the paper excludes as well.
_UNCOUNTED = re.compile(
    r".*/(attention/(query|key|value)/\w+|projection|class_embedding|probe"
    r"|position_embedding|logit_scale|logit_bias|frame_positions)"
)


class Counts(NamedTuple):
    """The number of trained parameters of a method.

    Attributes:
        trainable_parameters: all of them.
        percent: of all parameters of the model, added ones included.
        paper_parameters: counted by the paper's rule.
        paper_percent: of the backbone's parameters, counted by the same rule.
    """

    trainable_parameters: int
    percent: float
    paper_parameters: int
    paper_percent: float


def count(size: ClipSize, prompts: PromptConfig, trained: tuple[str, ...]) -> Counts:
    """Counts the trained parameters of a method.

    Args:
        size: of the backbone.
        prompts: what is added to it.
        trained: patterns of the trained parameters, see `Method.trained`.
    """
    variables = abstract_variables(size, prompts)
    leaves = {path: leaf.size for path, leaf in paths(variables).items()}
    chosen = paths(trained_mask(variables, trained))
    ours = {path: count for path, count in leaves.items() if chosen[path]}
    counted = {k: v for k, v in ours.items() if not _UNCOUNTED.fullmatch(k)}
    # If nothing else trains (proj), the paper does count the excluded matrices.
    paper = sum((counted or ours).values())
    whole = sum(
        count
        for path, count in leaves.items()
        if path.startswith("params/") and not _UNCOUNTED.fullmatch(path)
    )
    total = sum(ours.values())
    return Counts(total, 100 * total / sum(leaves.values()), paper, 100 * paper / whole)


def count_methods(size: ClipSize, num_frames: int) -> dict[str, Counts]:
    """The counts of every row of the method table that fits the backbone."""
    layers = size.vision.layers
    prompts = {k: x.prompt_config(layers, num_frames) for k, x in METHODS.items()}
    return {
        name: count(size, prompts[name], method.trained)
        for name, method in METHODS.items()
        if not lacking_parameters(size, (*method.trained, *prompts[name].needed()))
    }
