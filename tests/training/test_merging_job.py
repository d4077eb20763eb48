"""Merged tokens through every door: training, resuming, loading, scores, index."""

import json

import numpy as np
import pytest
import safetensors.numpy
from colour_model import COLOURS, write_colour
from small_job import config, data_dir, small_world  # noqa: F401

import vop_jax
from vop_jax import evaluate
from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training import loop
from vop_jax.training.job import run_job

METHOD = "method=tempme"


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run") / "whole")
    return folder, run_job(config(data_dir, METHOD), folder)


@pytest.mark.slow
def test_the_loss_falls_and_a_resumed_run_ends_with_the_same_bits(
    finished, data_dir, tmp_path, monkeypatch
):
    whole, _ = finished
    losses = [line["loss"] for line in read_metrics(whole) if "loss" in line]
    assert len(losses) == 6
    assert min(losses[-2:]) < losses[0]
    folder, save = RunFolder(tmp_path / "broken"), loop.Checkpoints.save

    def broken_off(self, step, *rest):
        save(self, step, *rest)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Checkpoints, "save", broken_off)
    with pytest.raises(KeyboardInterrupt):
        run_job(config(data_dir, METHOD), folder)
    assert not folder.tuned.exists()
    monkeypatch.undo()
    run_job(config(data_dir, METHOD), folder)
    ours = safetensors.numpy.load_file(folder.tuned)
    wanted = safetensors.numpy.load_file(whole.tuned)
    assert ours.keys() == wanted.keys() >= {"merge.positions.0", "lora.vision.B"}
    for name, value in wanted.items():
        np.testing.assert_array_equal(ours[name], value)
    # Everything that trains has left its start.
    assert np.any(wanted["merge.positions.0"])
    assert np.any(wanted["lora.vision.B"])


@pytest.mark.slow
def test_a_run_is_loaded_scored_and_searched_with(finished, data_dir, tmp_path):
    folder, results = finished
    model = vop_jax.load(folder.path)
    assert model.metadata["method"] == "tempme"
    flags = [f"--checkpoint={folder.path}", f"--data_dir={data_dir}", "--resamples=20"]
    with pytest.raises(SystemExit) as done:
        evaluate.main([*flags, f"--json={tmp_path / 'scores.json'}"])
    assert done.value.code in (0, None)
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["t2v"] == results["t2v"]
    paths = [write_colour(tmp_path / "films" / f"{x}.mp4", x) for x in COLOURS]
    with vop_jax.VideoIndex.create(tmp_path / "index") as index:
        index.update(model, tmp_path / "films", str(folder.path))
        (answer,) = index.search(model, ["a red circle"], top=3).answers
    wanted = model.encode_texts(["a red circle"])[0] @ model.encode_videos(paths).T
    scores = [hit.similarity for hit in answer.hits]
    # An index holds 16-bit floats.
    np.testing.assert_allclose(scores, np.sort(wanted)[::-1], atol=1e-3)


@pytest.mark.slow
def test_a_run_in_bfloat16_learns(data_dir, tmp_path):
    folder = RunFolder(tmp_path / "narrow")
    run_job(config(data_dir, METHOD, compute__dtype="bfloat16"), folder)
    losses = [line["loss"] for line in read_metrics(folder) if "loss" in line]
    assert np.all(np.isfinite(losses))
    assert min(losses[-2:]) < losses[0]
