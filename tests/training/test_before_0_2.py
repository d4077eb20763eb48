"""What the versions before 0.2 wrote is still read: shards, runs, checkpoints, exports.

`before_0_2` holds what commit dcc7d3d made of the dummy of `custom` and the demo's
backbone: the shards, a run that was interrupted after its first epoch of three, and the
settings, export and results of the same run at its end.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vop_jax
from data_pipelines.feeding.loading import find_prepared, load_split
from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
BEFORE = Path(__file__).parent / "before_0_2"
BACKBONE = ROOT / "vop_jax" / "demo" / "backbone"
# The loss of its last step, and what it began with.
LAST_LOSS, STEPS = 0.9394031763076782, 12


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the names that the old configuration has."""
    shutil.copytree(BEFORE / "data", tmp_path / "data")
    shutil.copytree(BACKBONE, tmp_path / "backbone")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shards(desk):
    path = find_prepared("custom", "data", 4, 48)
    split = load_split(path, "train")
    assert len(split.video_ids) == 16
    assert len(split.captions) == 32


def test_an_export_is_loaded(desk):
    shutil.copytree(BEFORE / "ended", desk / "run")
    model = vop_jax.load("run")
    assert model.metadata["method"] == "vop_p"
    texts = model.encode_texts(["a small yellow arrow", "a large green circle"])
    assert texts.shape == (2, 64)
    assert np.linalg.norm(texts, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.campaign
def test_an_interrupted_run_is_resumed_to_the_same_end(desk):
    shutil.copytree(BEFORE / "interrupted", desk / "run")
    # Without the flags that tests are compiled with.
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("XLA", "JAX"))}
    subprocess.run(
        [
            *(sys.executable, "-m", "vop_jax.main", "--workdir=run"),
            f"--config={ROOT}/configs/vop.py:dataset=custom,backbone=backbone,method=vop_p",
            *("--config.num_frames=4", "--config.batch_size=8", "--config.epochs=3"),
            *("--config.save_every=4", "--config.keep_checkpoints=9"),
            *("--config.log_every=4", "--config.data_dir=data"),
        ],
        env={**plain, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    lines = [x for x in read_metrics(RunFolder(desk / "run")) if "loss" in x]
    # The first epoch was not trained again.
    assert [x["step"] for x in lines] == [4, 8, STEPS]
    assert lines[-1]["loss"] == pytest.approx(LAST_LOSS, abs=1e-4)
    old = json.loads((BEFORE / "ended" / "results.json").read_text())
    new = json.loads((desk / "run" / "results.json").read_text())
    for way in ("t2v", "v2t"):
        # Newer versions know more metrics.
        assert {name: new[way][name] for name in old[way]} == old[way]
    assert new["trainable_parameters"] == old["trainable_parameters"]
