"""The shipped backbone in SigLIP's form: what it is, what it knows, that it trains."""

import json
import sys

import numpy as np
import pytest
import safetensors.numpy
from small_job import config, data_dir, small_world  # noqa: F401

import vop_jax
from data_pipelines.datasets.demo.clip import FRAMES, render_clip
from data_pipelines.datasets.demo.video_file import write_video
from data_pipelines.datasets.demo.world import sample_clips
from vop_jax import convert, search
from vop_jax.model.clip.families import SIZES
from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training.job import run_job
from vop_jax.weights.config_file import load_size
from vop_jax.weights.file_names import CONFIG, WEIGHTS
from vop_jax.weights.locate import EMBEDDED

NAME, CLIPS = "demo_siglip", 16
FOLDER = EMBEDDED[NAME]


@pytest.fixture(scope="module")
def clips():
    """Clips of the test split, no two of them of the same objects."""
    return [x[0] for x in np.array_split(sample_clips()["test"], CLIPS)]


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a command in this process; gives its status and what it printed."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            module.main()
        return ended.value.code, *capsys.readouterr()

    return run


def test_it_has_siglips_form():
    size = load_size(FOLDER)
    assert size == SIZES[NAME]
    assert json.loads((FOLDER / CONFIG).read_text())["model_type"] == "siglip"
    named = safetensors.numpy.load_file(FOLDER / WEIGHTS)
    assert "vision_model.head.probe" in named
    assert not [x for x in named if "class_embedding" in x]
    assert (size.loss, size.text.causal, size.text.reads) == ("sigmoid", False, "last")
    assert named["logit_bias"] < 0 < named["logit_scale"]
    assert sum(x.stat().st_size for x in FOLDER.iterdir()) < 1_000_000


def test_it_finds_videos_untuned(clips):
    """Better than chance: 6% first, 31% among five."""
    model = vop_jax.load(NAME, num_frames=8)
    middles = (np.arange(8) * 2 + 1) * FRAMES // 16
    videos = np.stack([render_clip(clip)[middles] for clip in clips])
    texts = [clip.sentences[0] for clip in clips]
    similarity = model.encode_texts(texts) @ model.encode_videos(videos).T
    right = similarity.diagonal()[:, None]
    assert (similarity > right).any(1).mean() < 0.7
    assert ((similarity > right).sum(1) < 5).mean() > 0.8


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """A run of a few epochs with the sigmoid loss on a small world."""
    folder = RunFolder(tmp_path_factory.mktemp("siglip") / "run")
    changes = {"loss": "sigmoid", "epochs": 12, "save_every": 100}
    run_job(config(data_dir, f"backbone={NAME}", **changes), folder)
    return folder


@pytest.mark.slow
def test_training_moves_it(trained, clips):
    """Towards the 48 videos that it is shown; so few say nothing of others."""
    losses = [x["loss"] for x in read_metrics(trained) if "loss" in x]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    texts = [clip.sentences[0] for clip in clips]
    tuned, untuned = vop_jax.load(trained.path), vop_jax.load(NAME)
    assert tuned.backbone.sha256 == untuned.backbone.sha256
    moved = (tuned.encode_texts(texts) * untuned.encode_texts(texts)).sum(1)
    assert moved.max() < 0.99


@pytest.mark.slow
def test_a_run_is_converted_indexed_and_queried(trained, clips, tmp_path, call):
    run, texts = trained.path, [clip.sentences[0] for clip in clips]
    status, *_ = call(convert, f"--input={run}", f"--output={tmp_path / 'out'}")
    assert not status
    ours, again = (vop_jax.load(x) for x in (run, tmp_path / "out"))
    np.testing.assert_array_equal(again.encode_texts(texts), ours.encode_texts(texts))
    videos, index = tmp_path / "videos", tmp_path / "index"
    videos.mkdir()
    for clip in clips[:3]:
        write_video(videos / f"{clip.clip_id}.mp4", render_clip(clip))
    flags = f"--videos={videos}", f"--checkpoint={run}", f"--output={index}"
    status, *_ = call(search, "index", *flags)
    assert not status
    status, out, _ = call(search, "query", f"--index={index}", texts[0], "--json")
    assert not status
    assert clips[0].clip_id in out


@pytest.mark.slow
def test_a_round_trip_is_exact_and_other_formats_refuse_it(tmp_path, call):
    status, *_ = call(convert, f"--input={NAME}", f"--output={tmp_path / 'out'}")
    assert not status
    before, after = (
        safetensors.numpy.load_file(x / WEIGHTS) for x in (FOLDER, tmp_path / "out")
    )
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].shape == value.shape
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert load_size(tmp_path / "out") == load_size(FOLDER)
    for target in ("openai", "modelscope"):
        back = tmp_path / target
        flags = f"--input={tmp_path / 'out'}", f"--output={back}", f"--to={target}"
        status, _, said = call(convert, *flags)
        assert status == 2
        assert "has no place for a SigLIP" in said
        assert not back.exists()
