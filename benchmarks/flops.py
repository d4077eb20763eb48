"""FLOPs of a train step and of a forward pass of every method, ViT-B/32.

    python -m benchmarks.flops [--output=FILE]

Counts the matrix products for 4 videos of 12 frames and captions of 32 tokens, with
unrolled layers; nothing is compiled or run.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.report import publish
from vop_jax.devices.config import MeshConfig
from vop_jax.devices.flops import count_flops
from vop_jax.devices.mesh import make_mesh
from vop_jax.model.clip.families import SIZES
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.trained import select, trained_mask
from vop_jax.optimization.train_step import make_loss_and_gradient

BATCH, FRAMES, TOKENS = 4, 12, 32
SIZE = SIZES["vit_b32"]


def count(name: str) -> dict[str, float]:
    """GFLOP of one method."""
    method = METHODS[name]
    config = method.prompt_config(SIZE.vision.layers, FRAMES)
    model = DualEncoder(SIZE, config, ComputeConfig(scan=False))
    variables = abstract_variables(SIZE, config)
    mask = trained_mask(variables, method.trained)
    side = SIZE.image_size
    frames = jax.ShapeDtypeStruct((BATCH, FRAMES, side, side, 3), jnp.uint8)
    ids = jax.ShapeDtypeStruct((BATCH, TOKENS), jnp.int32)
    found = {"forward": count_flops(model.apply, variables, frames, ids) / 1e9}
    if method.trained:
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        found["train_step"] = (
            count_flops(
                make_loss_and_gradient(model, mesh),
                select(variables, mask, trained=True),
                select(variables, mask, trained=False),
                {"frames": frames, "text_ids": ids},
            )
            / 1e9
        )
    return {key: round(value, 2) for key, value in found.items()}


def main() -> None:
    """Prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    report = {
        "setting": {
            "backbone": "vit_b32",
            "batch": BATCH,
            "frames": FRAMES,
            "caption_tokens": TOKENS,
        },
        "gflop": {name: count(name) for name in METHODS},
    }
    publish(report, given.output)


if __name__ == "__main__":
    main()
