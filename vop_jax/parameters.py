"""Counts the parameters that each method trains: all, and as the paper counts them.

    python -m vop_jax.parameters [--config=configs/vop.py] [--json]

The default is the paper's setting, ViT-B/32 and 12 frames. The paper counts only
parameters that PyTorch names `.weight` or `.bias`. That excludes the matrices that
OpenAI's CLIP stores without such a name (query, key and value, projections, positions,
the class token, the scale), and the frame positions of the joint layers.
"""

import json

from absl import flags

from data_pipelines.console.terminal import say, table
from vop_jax.model.clip.families import SIZES
from vop_jax.training.command_line import run_command

# The percentages in Table 1 of the paper.
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


def define_flags() -> None:
    """Defines the flags besides `--config`."""
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def run_parameters(given: flags.FlagValues) -> None:
    """Prints the counts."""
    # Imported late, so that the help and a typing mistake are answered without a wait.
    from vop_jax.model.counts import count_methods
    from vop_jax.model.methods import METHODS
    from vop_jax.training.config import check_config

    size, num_frames = SIZES["vit_b32"], 12
    if given.config is not None:
        config = check_config(given.config.to_dict())
        size = config.backbone_size()
        num_frames = config.num_frames
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
        f"Trained parameters, {num_frames} frames",
        ["method", "all", "%", "by the paper's rule", "%", "paper, ViT-B/32, %"],
        rows,
    )
    if unfit := METHODS.keys() - counts.keys():
        say(
            f"without {', '.join(sorted(unfit))}: the backbone lacks parameters that "
            "these would train, or rows that they would read"
        )


if __name__ == "__main__":
    run_command(
        run_parameters,
        usage=__doc__,
        define=define_flags,
        config_needed=False,
    )
