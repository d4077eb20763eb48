"""How many numbers each method trains, and how many the paper says.

    python -m vop_jax.parameters [--config=configs/vop.py] [--json]

Without a configuration it is the paper's setting, ViT-B/32 and 12 frames. The paper
counts only what PyTorch names `.weight` or `.bias`, so neither the matrices
that OpenAI's CLIP keeps as bare parameters (queries, keys and values, projections,
positions, the class token, the scale) nor the frame positions of the joint layers.
"""

import json
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from data_pipelines.terminal import say, table
from vop_jax.backbone import load_size
from vop_jax.command_line import run_command
from vop_jax.config import check_config
from vop_jax.dual_encoder import DualEncoder
from vop_jax.methods import METHODS, paths, trained_mask
from vop_jax.prompts import PromptConfig
from vop_jax.sizes import SIZES, ClipSize

# Leaves whose name in OpenAI's CLIP ends neither in .weight nor in .bias, and the frame
# positions, which the paper leaves out as well.
_UNCOUNTED = re.compile(
    r".*/(attention/(query|key|value)/\w+|projection|class_embedding"
    r"|position_embedding|logit_scale|frame_positions)"
)
# Percentages as Table 1 of the paper prints them.
PRINTED = {
    "full": 100.0,
    "bias": 0.104,
    "proj": 0.547,
    "partial": 6.410,
    "adapter_attn": 1.655,
    "adapter_ffn": 1.655,
    "vop": 0.103,
    "vop_p": 0.441,
    "vop_c": 11.898,
    "vop_f": 0.103,
    "vop_fp": 0.328,
    "vop_fc": 11.785,
}


class Counts(NamedTuple):
    """Trained numbers of a method.

    Attributes:
        trainable_parameters: all of them.
        percent: of the whole model, what is added included.
        paper_parameters: by the paper's rule.
        paper_percent: of the backbone by the same rule.
    """

    trainable_parameters: int
    percent: float
    paper_parameters: int
    paper_percent: float


def abstract_variables(size: ClipSize, prompts: PromptConfig) -> Any:
    """The shapes of a model's variables; nothing is computed."""
    image = (1, prompts.num_frames, size.image_size, size.image_size, 3)
    key = jax.random.key(0)
    return jax.eval_shape(
        DualEncoder(size, prompts).init,
        {"params": key, "prompts": key},
        jax.ShapeDtypeStruct(image, jnp.uint8),
        jax.ShapeDtypeStruct((1, 2), jnp.int32),
    )


def count(size: ClipSize, prompts: PromptConfig, trained: tuple[str, ...]) -> Counts:
    """Counts what trains.

    Args:
        size: of the backbone.
        prompts: what is added to it.
        trained: patterns of what trains, as of a row of the method table.
    """
    variables = abstract_variables(size, prompts)
    leaves = {path: leaf.size for path, leaf in paths(variables).items()}
    chosen = paths(trained_mask(variables, trained))
    ours = {path: count for path, count in leaves.items() if chosen[path]}
    counted = {k: v for k, v in ours.items() if not _UNCOUNTED.fullmatch(k)}
    # Where nothing else trains (proj) the paper does count the bare matrices.
    paper = sum((counted or ours).values())
    whole = sum(
        count
        for path, count in leaves.items()
        if path.startswith("params/") and not _UNCOUNTED.fullmatch(path)
    )
    total = sum(ours.values())
    return Counts(total, 100 * total / sum(leaves.values()), paper, 100 * paper / whole)


def count_methods(size: ClipSize, num_frames: int) -> dict[str, Counts]:
    """The counts of every row of the method table."""
    layers = size.vision.layers
    return {
        name: count(size, method.prompt_config(layers, num_frames), method.trained)
        for name, method in METHODS.items()
    }


def define_flags() -> None:
    """Defines the flags besides `--config`."""
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def run_parameters(given: Any) -> None:
    """Prints the counts."""
    size, num_frames = SIZES["vit_b32"], 12
    if given.config is not None:
        config = check_config(given.config.to_dict())
        size, num_frames = load_size(config.backbone_folder), config.num_frames
    counts = count_methods(size, num_frames)
    if given.json:
        say(json.dumps({name: found._asdict() for name, found in counts.items()}))
        return
    rows = []
    for name, found in counts.items():
        printed = f"{PRINTED[name]:.3f}" if name in PRINTED else ""
        rows.append(
            [
                name,
                f"{found.trainable_parameters:,}",
                f"{found.percent:.3f}",
                f"{found.paper_parameters:,}",
                f"{found.paper_percent:.3f}",
                printed,
            ]
        )
    table(
        f"Numbers trained, {num_frames} frames",
        ["method", "ours", "%", "by the paper's rule", "%", "printed for ViT-B/32, %"],
        rows,
    )


if __name__ == "__main__":
    run_command(
        run_parameters,
        usage=__doc__,
        define=define_flags,
        config_needed=False,
    )
