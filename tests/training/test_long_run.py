"""Hundreds of steps: neither slower nor larger with time."""

import resource
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from vop_jax.devices.config import MeshConfig
from vop_jax.devices.mesh import make_mesh, put_batch, put_tree
from vop_jax.model.clip.families import SIZES
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.trained import select, trained_mask
from vop_jax.optimization.config import OptimizerConfig
from vop_jax.optimization.optimizer import make_optimizer
from vop_jax.optimization.train_step import (
    compile_train_step,
    initial_state,
    make_train_step,
)

STEPS, WINDOW, FRAMES, BATCH = 240, 40, 4, 16
SIZE = SIZES["demo"]


def resident():
    """Bytes of memory this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.campaign
def test_throughput_and_memory_stay_flat():
    config = METHODS["vop_fc"].prompt_config(SIZE.vision.layers, FRAMES)
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.normal(0, 0.05, x.shape).astype(np.float32),
        abstract_variables(SIZE, config),
    )
    mask = trained_mask(variables, METHODS["vop_fc"].trained)
    trainable = put_tree(mesh, select(variables, mask, trained=True))
    frozen = put_tree(mesh, select(variables, mask, trained=False))
    optimizer = make_optimizer(OptimizerConfig(), trainable, STEPS)
    state = put_tree(mesh, jax.device_get(initial_state(trainable, optimizer, 1e-3)))
    model = DualEncoder(SIZE, config)
    step = compile_train_step(
        make_train_step(model, optimizer, mesh), mesh, state, frozen
    )
    seconds, memory, arrays = [], [], []
    for number in range(STEPS):
        if number % WINDOW == 0:
            started = time.process_time()
        side = SIZE.image_size
        frames = rng.integers(0, 256, (BATCH, FRAMES, side, side, 3), np.uint8)
        ids = rng.integers(1, SIZE.eos_id, (BATCH, 8)).astype(np.int32)
        ids[:, -1] = SIZE.eos_id
        batch = put_batch(mesh, {"frames": frames, "text_ids": ids})
        state, metrics = step(state, frozen, batch)
        assert np.isfinite(float(metrics["loss"]))
        if (number + 1) % WINDOW == 0:
            seconds.append((time.process_time() - started) / WINDOW)
            memory.append(resident())
            arrays.append(len(jax.live_arrays()))
    print("CPU-s a step", [round(x, 3) for x in seconds])
    print("MB", [round(x / 1e6) for x in memory], "arrays", arrays)
    assert step._cache_size() == 1
    # The first window compiles.
    first, last = seconds[1], seconds[-1]
    assert last <= 1.25 * first
    assert memory[-1] <= 1.02 * memory[1]
    assert len(set(arrays)) == 1
