"""Methods of other papers through every door: training, loading, index, convert."""

import json

import numpy as np
import pytest
import safetensors.numpy
from colour_model import COLOURS, write_colour
from small_job import config, data_dir, small_world  # noqa: F401
from tiers import by_hand_except

import vop_jax
from data_pipelines.console.errors import UserError
from vop_jax import evaluate
from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training import loop
from vop_jax.training.job import run_job
from vop_jax.weights.clip_export import convert

METHODS = ["dgl_linear", "dgl_transformer", "mv_adapter", "tempme"]
MERGING = "method=tempme"


@pytest.fixture(
    scope="module", params=by_hand_except(METHODS, "dgl_transformer", "tempme")
)
def finished(request, data_dir, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run") / request.param)
    made = config(data_dir, f"method={request.param}")
    return folder, run_job(made, folder), request.param


def frames_of(model, count=3):
    rng = np.random.default_rng(0)
    shape = (count, model.num_frames, model.image_size, model.image_size, 3)
    return rng.integers(0, 256, shape, np.uint8)


@pytest.mark.slow
def test_a_run_is_loaded_and_scored(finished, data_dir, tmp_path):
    folder, results, method = finished
    model = vop_jax.load(folder.path)
    assert model.metadata["method"] == method
    videos = model.encode_videos(frames_of(model))
    # One row a video, or a mean that is normalised again: no mean that is shorter.
    np.testing.assert_allclose(np.linalg.norm(videos, axis=1), 1, atol=1e-5)
    flags = [f"--checkpoint={folder.path}", f"--data_dir={data_dir}", "--resamples=20"]
    with pytest.raises(SystemExit) as done:
        evaluate.main([*flags, f"--json={tmp_path / 'scores.json'}"])
    assert done.value.code in (0, None)
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["t2v"] == results["t2v"]


@pytest.mark.slow
def test_videos_are_indexed_with_it(finished, tmp_path):
    folder, _, _ = finished
    model = vop_jax.load(folder.path)
    paths = [write_colour(tmp_path / "films" / f"{x}.mp4", x) for x in COLOURS]
    with vop_jax.VideoIndex.create(tmp_path / "index") as index:
        index.update(model, tmp_path / "films", str(folder.path))
        (answer,) = index.search(model, ["a red circle"], top=3).answers
    wanted = model.encode_texts(["a red circle"])[0] @ model.encode_videos(paths).T
    scores = [hit.similarity for hit in answer.hits]
    # An index holds 16-bit floats.
    np.testing.assert_allclose(scores, np.sort(wanted)[::-1], atol=1e-3)


@pytest.mark.slow
def test_it_is_converted_with_its_prompts(finished, tmp_path):
    folder, _, _ = finished
    convert(folder.path, tmp_path / "out", "huggingface")
    model, again = vop_jax.load(folder.path), vop_jax.load(tmp_path / "out")
    frames = frames_of(model)
    ours = safetensors.numpy.load_file(tmp_path / "out" / "tuned.safetensors").keys()
    tuned = safetensors.numpy.load_file(folder.tuned).keys()
    # LoRA's matrices are added to the weights, which rounds.
    merged = {x for x in tuned if x.startswith("lora.")}
    assert ours == tuned - merged
    np.testing.assert_allclose(
        model.encode_videos(frames),
        again.encode_videos(frames),
        rtol=0,
        atol=1e-6 if merged else 0,
    )
    for target in ("openai", "modelscope"):
        with pytest.raises(UserError, match="huggingface"):
            convert(folder.path, tmp_path / target, target)


@pytest.mark.slow
@pytest.mark.parametrize("finished", ["tempme"], indirect=True)
def test_merging_learns_and_a_resumed_run_ends_with_the_same_bits(
    finished, data_dir, tmp_path, monkeypatch
):
    whole, _, _ = finished
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
        run_job(config(data_dir, MERGING), folder)
    assert not folder.tuned.exists()
    monkeypatch.undo()
    run_job(config(data_dir, MERGING), folder)
    ours = safetensors.numpy.load_file(folder.tuned)
    wanted = safetensors.numpy.load_file(whole.tuned)
    assert ours.keys() == wanted.keys() >= {"merge.positions.0", "lora.vision.B"}
    for name, value in wanted.items():
        np.testing.assert_array_equal(ours[name], value)
    # Everything that trains has left its start.
    assert np.any(wanted["merge.positions.0"])
    assert np.any(wanted["lora.vision.B"])


@pytest.mark.campaign
def test_merging_learns_in_bfloat16(data_dir, tmp_path):
    folder = RunFolder(tmp_path / "narrow")
    run_job(config(data_dir, MERGING, compute__dtype="bfloat16"), folder)
    losses = [line["loss"] for line in read_metrics(folder) if "loss" in line]
    assert np.all(np.isfinite(losses))
    assert min(losses[-2:]) < losses[0]
