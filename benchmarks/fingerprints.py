"""Prints hashes of every method's features and gradients, to the last bit.

    python -m benchmarks.fingerprints > before.txt
    python -m benchmarks.fingerprints layers cached > more.txt
    python -m benchmarks.fingerprints programs loop layers cached > programs.txt

A change of the code that is not meant to change what is computed leaves every line as
it was: run this before and after on one machine with one set of libraries, and compare
the two outputs. Other libraries or another processor may round differently.

Inputs, prompts and trained leaves are drawn from fixed seeds on the embedded demo's
backbone; everything is float32 on one CPU device. A line holds the method's name, how
its layers run (`loop`: one compiled loop, the default; `layers`: one after another;
`cached`: with gradient caching and rematerialization), what is hashed, and its sha256.

With `programs` nothing is compiled or run. What is hashed then is the StableHLO that
JAX passes to the compiler: equal programs give equal numbers, and it takes seconds.
"""

import hashlib
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vop_jax.devices.config import MeshConfig
from vop_jax.devices.mesh import make_mesh
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.trained import select, trained_mask
from vop_jax.optimization.train_step import make_loss_and_gradient
from vop_jax.weights.backbone import Backbone, load_backbone
from vop_jax.weights.locate import BACKBONE

BATCH, FRAMES = 4, 3
# Name -> how the towers compute, and the micro-batch of the gradient.
WAYS = {
    "loop": (ComputeConfig(), 0),
    "layers": (ComputeConfig(scan=False), 0),
    "cached": (ComputeConfig(remat="lean"), 2),
}


def sha256(tree: Any) -> str:
    """The hash over the paths, dtypes, shapes and bytes of a tree's leaves."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        value = np.asarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape} "
        digest.update(head.encode() + value.tobytes())
    return digest.hexdigest()


def batch_of(backbone: Backbone) -> dict[str, jax.Array]:
    """Frames of noise and captions of random words, the same on every call."""
    size, random = backbone.size, np.random.default_rng(0)
    shape = (BATCH, FRAMES, size.image_size, size.image_size, 3)
    ids = random.integers(2, size.eos_id - 1, (BATCH, 12))
    ids[:, 0] = size.eos_id - 1
    # Captions of different lengths, padded with zeros behind the end token.
    for row, end in enumerate((11, 5, 8, 3)):
        ids[row, end:] = 0
        ids[row, end] = size.eos_id
    return {
        "frames": jnp.asarray(random.integers(0, 256, shape, np.uint8)),
        "text_ids": jnp.asarray(ids, jnp.int32),
    }


def variables_of(model: DualEncoder, backbone: Backbone, batch: Any) -> dict[str, Any]:
    """The backbone's weights and prompts that are not zero anywhere."""
    key = jax.random.key(0)
    drawn = jax.jit(
        lambda key: model.init(
            {"params": key, "prompts": key}, batch["frames"], batch["text_ids"]
        ).get("prompts", {})
    )(key)
    leaves, tree = jax.tree.flatten(drawn)
    # Adapters start at zero, which would hide half of what they compute.
    moved = [
        leaf + 0.02 * jax.random.normal(jax.random.key(i), leaf.shape)
        for i, leaf in enumerate(leaves)
    ]
    prompts = jax.tree.unflatten(tree, moved)
    return {"params": backbone.params} | ({"prompts": prompts} if prompts else {})


def functions(
    name: str, way: str, backbone: Backbone
) -> Iterator[tuple[tuple[str, ...], Any, tuple[Any, ...]]]:
    """(what comes out, the jitted function, its arguments) of a method."""
    row, batch = METHODS[name], batch_of(backbone)
    compute, micro_batch = WAYS[way]
    prompts = row.prompt_config(backbone.size.vision.layers, FRAMES)
    model = DualEncoder(backbone.size, prompts, compute)
    variables = variables_of(model, backbone, batch)
    inputs = (variables, batch["frames"], batch["text_ids"])
    yield ("video features", "text features", "scale"), jax.jit(model.apply), inputs
    if not row.trained:
        return
    mask = trained_mask(variables, row.trained)
    step = make_loss_and_gradient(
        model, make_mesh(MeshConfig()), micro_batch=micro_batch
    )
    halves = (select(variables, mask, trained=x) for x in (True, False))
    yield ("loss", "gradient"), jax.jit(step), (*halves, batch)


def main() -> None:
    """Prints one line for each method, way and result.

    Raises:
        SystemExit: an argument is neither `programs` nor one of `WAYS`.
    """
    ways = [x for x in sys.argv[1:] if x != "programs"] or ["loop"]
    if unknown := sorted({*ways} - {*WAYS}):
        raise SystemExit(f"{unknown[0]!r} is not one of {', '.join(WAYS)}")
    backbone = load_backbone(BACKBONE)
    for name, way in itertools.product(METHODS, ways):
        for results, function, arguments in functions(name, way, backbone):
            found = {}
            if "programs" in sys.argv:
                text = function.lower(*arguments).as_text()
                found[" and ".join(results)] = hashlib.sha256(text.encode()).hexdigest()
            else:
                values = function(*arguments)
                found |= zip(results, map(sha256, values), strict=True)
            for what, value in found.items():
                print(f"{name} | {way} | {what} | {value}", flush=True)


if __name__ == "__main__":
    main()
