"""The train step on the accelerator at hand: the same numbers as a CPU's, and how fast.

    python -m benchmarks.device_step [--batches=32,128,512] [--output=FILE]

Random weights of ViT-B/32, 12 frames. First each method's loss and gradients in float32
are compared with those of the CPU of the same machine (4 videos, full precision of the
matrix products); then steps are timed in bfloat16, by batch size and rematerialization
policy, the median of ten after three that do not count. One process, one device.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import machine, publish
from vop_jax.runtime.startup import start_up

METHODS_RUN = ("vop", "vop_p", "vop_c", "vop_f", "vop_fp", "vop_fc")
FRAMES, SEED, TOKENS, TIMED, WARM = 12, 0, 32, 10, 3


def problem(method: str, batch: int) -> tuple[Any, ...]:
    """The size, prompts, random variables and a random batch of a method."""
    import jax

    from vop_jax.model.clip.families import SIZES
    from vop_jax.model.methods import METHODS
    from vop_jax.model.shapes import abstract_variables

    size, rng = SIZES["vit_b32"], np.random.default_rng(SEED)
    config = METHODS[method].prompt_config(size.vision.layers, FRAMES)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        middle = {"scale": 1.0, "logit_scale": 3.0}.get(path[-1].key, 0.0)
        noise = 0.03 * rng.standard_normal(leaf.shape, np.float32)
        return np.asarray(middle + noise, np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, abstract_variables(size, config))
    frames = rng.integers(
        0, 256, (batch, FRAMES, size.image_size, size.image_size, 3), np.uint8
    )
    ids = rng.integers(1, size.eos_id - 1, (batch, TOKENS)).astype(np.int32)
    ids[:, 0], ids[:, -1] = size.eos_id - 1, size.eos_id
    return size, config, variables, {"frames": frames, "text_ids": ids}


def gradients(method: str, platform: str) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients by leaf, of four videos in float32, on a platform."""
    import jax
    from flax import traverse_util

    from vop_jax.devices.config import MeshConfig
    from vop_jax.devices.mesh import make_mesh, put_batch, put_tree
    from vop_jax.model.dual_encoder import DualEncoder
    from vop_jax.model.methods import METHODS
    from vop_jax.model.trained import select, trained_mask
    from vop_jax.optimization.train_step import make_loss_and_gradient

    size, config, variables, batch = problem(method, 4)
    mesh = make_mesh(MeshConfig(), jax.devices(platform)[:1])
    mask = trained_mask(variables, METHODS[method].trained)
    parts = [put_tree(mesh, select(variables, mask, trained=x)) for x in (True, False)]
    step = jax.jit(make_loss_and_gradient(DualEncoder(size, config), mesh))
    with jax.default_matmul_precision("highest"):
        loss, gradient = step(*parts, put_batch(mesh, batch))
    flat = traverse_util.flatten_dict(jax.device_get(gradient), sep="/")
    return float(loss), {name: np.asarray(x) for name, x in flat.items()}


def compared(method: str, platform: str) -> dict[str, float]:
    """How far the device is from the CPU, relative to a leaf's largest gradient."""
    loss, found = gradients(method, platform)
    wanted_loss, wanted = gradients(method, "cpu")
    off = [
        float(np.abs(found[name] - x).max() / np.abs(x).max())
        for name, x in wanted.items()
        if x.size and np.abs(x).max() > 0
    ]
    return {"loss": abs(loss / wanted_loss - 1), "gradients": max(off)}


def timed(method: str, batch: int, policy: str) -> dict[str, float]:
    """Seconds of a step in bfloat16, and videos a second."""
    import jax

    from vop_jax.devices.config import MeshConfig
    from vop_jax.devices.mesh import make_mesh, put_batch, put_tree
    from vop_jax.model.compute import ComputeConfig
    from vop_jax.model.dual_encoder import DualEncoder
    from vop_jax.model.methods import METHODS
    from vop_jax.model.stored import store_frozen
    from vop_jax.model.trained import select, trained_mask
    from vop_jax.optimization.config import OptimizerConfig
    from vop_jax.optimization.optimizer import make_optimizer
    from vop_jax.optimization.train_step import (
        compile_train_step,
        initial_state,
        make_train_step,
    )

    size, config, variables, host = problem(method, batch)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    mask = trained_mask(variables, METHODS[method].trained)
    trainable = put_tree(mesh, select(variables, mask, trained=True))
    frozen = store_frozen(select(variables, mask, trained=False), "bfloat16")
    frozen = put_tree(mesh, frozen)
    optimizer = make_optimizer(OptimizerConfig(), trainable, 1000)
    state = put_tree(mesh, jax.device_get(initial_state(trainable, optimizer, 1e-3)))
    compute = ComputeConfig(dtype="bfloat16", remat=policy)
    model = DualEncoder(size, config, compute).on(jax.devices()[0])
    step = make_train_step(model, optimizer, mesh)
    run = compile_train_step(step, mesh, state, frozen)
    placed, seconds = put_batch(mesh, host), []
    for _ in range(WARM + TIMED):
        started = time.perf_counter()
        state, metrics = run(state, frozen, placed)
        jax.block_until_ready(metrics["loss"])
        seconds.append(time.perf_counter() - started)
    if not np.isfinite(float(metrics["loss"])):
        raise SystemExit(f"{method}, batch {batch}: the loss is {metrics['loss']}")
    median = statistics.median(seconds[WARM:])
    return {"seconds": round(median, 5), "videos_per_second": round(batch / median, 1)}


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", default="32,128,512")
    parser.add_argument("--output", type=Path)
    flags = parser.parse_args()
    start_up()
    import jax

    device = jax.devices()[0]
    report: dict[str, Any] = {
        "machine": machine() | {"device": device.device_kind, "jax": jax.__version__},
        "against_the_cpu": {},
        "steps": {},
    }
    for method in METHODS_RUN:
        report["against_the_cpu"][method] = found = compared(method, device.platform)
        print(json.dumps({method: found}), flush=True)
    for method in ("vop", "vop_fc"):
        for batch in (int(x) for x in flags.batches.split(",")):
            for policy in ("none", "lean"):
                name = f"{method}, batch {batch}, {policy}"
                try:
                    found = timed(method, batch, policy)
                # A device's own word that it has not the memory.
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    found = {"out_of_memory": True}
                report["steps"][name] = found
                print(json.dumps({name: found}), flush=True)
    publish(report, flags.output)


if __name__ == "__main__":
    main()
