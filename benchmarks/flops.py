"""FLOPs of a train step and of a forward pass: every method, every family.

    python -m benchmarks.flops [--methods=NAME,...] [--output=FILE]

Counts the matrix products for 4 videos of 12 frames and captions of 32 tokens, with
unrolled layers; nothing is compiled or run. Methods are counted on ViT-B/32, families
with `vop` beside the naive form of the tests: prompts as tokens that run through every
part of every layer, all rows of the last layer, captions of full length. With
`--methods` those alone are counted, and merged into the file that is there.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.report import publish
from tests.helpers import naive
from vop_jax.devices.config import MeshConfig
from vop_jax.devices.flops import count_flops
from vop_jax.devices.mesh import make_mesh
from vop_jax.model.clip.families import SIZES
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.trained import select, trained_mask
from vop_jax.optimization.losses import contrastive_loss
from vop_jax.optimization.train_step import make_loss_and_gradient, merge

BATCH, FRAMES, TOKENS = 4, 12, 32
FAMILIES = (
    *("vit_b32", "laion_h14", "siglip_b16", "siglip_so400m14_384"),
    *("pe_core_b16", "pe_core_l14_336", "eva02_b16", "eva02_l14"),
)


def problem(size: ClipSize, name: str, tokens: int) -> tuple[Any, Any, Any, Any]:
    """A method's prompts, trained and frozen leaves, and a batch; shapes alone."""
    method = METHODS[name]
    config = method.prompt_config(size.vision.layers, FRAMES)
    variables = abstract_variables(size, config)
    mask = trained_mask(variables, method.trained)
    side = size.image_size
    batch = {
        "frames": jax.ShapeDtypeStruct((BATCH, FRAMES, side, side, 3), jnp.uint8),
        "text_ids": jax.ShapeDtypeStruct((BATCH, tokens), jnp.int32),
        # Read by a loss that takes captions of frames.
        "frame_ids": jax.ShapeDtypeStruct((BATCH, FRAMES, tokens), jnp.int32),
    }
    trainable = select(variables, mask, trained=True)
    return config, trainable, select(variables, mask, trained=False), batch


def count(size: ClipSize, name: str) -> dict[str, float]:
    """GFLOP of one method."""
    tokens = size.context_length if size.full_captions else TOKENS
    config, trainable, frozen, batch = problem(size, name, tokens)
    model = DualEncoder(size, config, ComputeConfig(scan=False))
    variables = merge(trainable, frozen)
    pairs = batch["frames"], batch["text_ids"]
    found = {"forward": count_flops(model.apply, variables, *pairs) / 1e9}
    if METHODS[name].trained:
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        step = make_loss_and_gradient(model, mesh, loss=METHODS[name].loss or "auto")
        found["train_step"] = count_flops(step, trainable, frozen, batch) / 1e9
    return {key: round(value, 2) for key, value in found.items()}


def count_naive(size: ClipSize, name: str) -> dict[str, float]:
    """GFLOP of the naive form of the same method."""
    config, trainable, frozen, batch = problem(size, name, size.context_length)

    def loss(trainable: Any, frozen: Any, batch: dict[str, jax.Array]) -> jax.Array:
        variables = merge(trainable, frozen)
        encode: Callable[..., Any] = naive.encode_video
        videos = jax.vmap(lambda video: encode(size, config, variables, video))(
            batch["frames"]
        )
        texts = naive.encode_texts(size, config, variables, batch["text_ids"])
        return contrastive_loss(videos, texts, variables["params"]["logit_scale"])

    found = {
        "forward": count_flops(loss, trainable, frozen, batch),
        "train_step": count_flops(jax.grad(loss), trainable, frozen, batch),
    }
    return {k: round((x + of_patches(size)) / 1e9, 2) for k, x in found.items()}


def of_patches(size: ClipSize) -> int:
    """FLOPs of the patch embedding, a convolution there; it has no gradient."""
    values = 3 * size.patch_size**2 * size.vision.width
    return 2 * BATCH * FRAMES * size.patches * values


def compare(size: ClipSize) -> dict[str, Any]:
    """Both forms of `vop` on one backbone, and the ratio of their train steps."""
    ours, plain = count(size, "vop"), count_naive(size, "vop")
    ratio = ours["train_step"] / plain["train_step"]
    return {"ours": ours, "naive": plain, "train_step_ratio": round(ratio, 3)}


def main() -> None:
    """Prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--methods", type=lambda names: names.split(","))
    given = parser.parse_args()
    setting = {
        "backbone": "vit_b32",
        "batch": BATCH,
        "frames": FRAMES,
        "caption_tokens": TOKENS,
    }
    there: dict[str, Any] = {"setting": setting, "gflop": {}, "families": {}}
    if given.methods and given.output and given.output.exists():
        there = json.loads(given.output.read_text())
        if there["setting"] != setting:
            parser.error(f"{given.output} was counted for {there['setting']}")
    names = given.methods or METHODS
    if unknown := [name for name in names if name not in METHODS]:
        parser.error(f"--methods: there is no {', '.join(unknown)}")
    found = {name: count(SIZES["vit_b32"], name) for name in names}
    counts = there["gflop"] | found
    # In the order of the table of methods.
    there["gflop"] = {name: counts[name] for name in METHODS if name in counts}
    if not given.methods:
        there["families"] = {name: compare(SIZES[name]) for name in FAMILIES}
    publish(there, given.output)


if __name__ == "__main__":
    main()
