"""A run of each method that is killed and resumed ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from small_job import config, data_dir, small_world  # noqa: F401
from tiers import by_hand

from vop_jax.model.methods import METHODS
from vop_jax.model.tree_paths import paths
from vop_jax.parameters import PRINTED
from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training.checkpoint import Checkpoints
from vop_jax.training.loop import train
from vop_jax.training.run import assemble

ROOT = Path(__file__).parents[2]
# What these train, the others train as well, or it is minutes long.
PARTS = ("lora", "vop_lora", "ivfusion", "discovla", "dgl_linear", "mv_adapter")
SINCE = [
    by_hand(name) if name in PARTS else name
    for name in METHODS
    if name not in ("zero_shot", *PRINTED)
]
# Six steps of a program that compiles fast, a checkpoint after every second.
CHANGES = {"compute__scan": True}


@pytest.fixture
def cache(tmp_path):
    """A place for compiled programs: all three runs of a method have the same."""
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield str(tmp_path / "xla")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


@pytest.mark.slow
@pytest.mark.parametrize("method", SINCE)
def test_a_killed_run_ends_with_the_same_bits(method, data_dir, cache, tmp_path):
    made = config(data_dir, f"method={method}", **CHANGES)
    run = assemble(made, RunFolder(tmp_path / "unbroken"))
    before = {k: np.asarray(x) for k, x in paths(run.trainable).items()}
    wanted = paths(train(run))
    given = {
        **{"data_dir": data_dir, "method": method, "changes": CHANGES},
        **{"folder": str(tmp_path / "killed"), "cache": cache, "step": 5},
    }
    done = subprocess.run(
        [sys.executable, ROOT / "tests/helpers/killed_run.py", json.dumps(given)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    folder = RunFolder(tmp_path / "killed")
    checkpoints = Checkpoints(folder.checkpoints)
    assert checkpoints.steps
    assert max(checkpoints.steps) < 5
    checkpoints.close()
    assert not folder.tuned.exists()
    ours = paths(train(assemble(made, folder, run)))
    steps = [x["step"] for x in read_metrics(folder) if "loss" in x]
    assert steps == list(range(1, 7))
    for path in run.leaves:
        ours_, wanted_ = (np.asarray(x[path[0]]) for x in (ours, wanted))
        np.testing.assert_array_equal(ours_, wanted_)
    # Control: training did change something of it.
    assert any(np.any(before[x[0]] != np.asarray(wanted[x[0]])) for x in run.leaves)
