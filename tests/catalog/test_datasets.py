"""Every data set from its dummy to the model, and a run on two of them."""

import dataclasses
import json

import numpy as np
import pytest

from configs.vop import get_config
from data_pipelines.catalog.table import DATASETS
from data_pipelines.console.errors import UserError
from data_pipelines.dummy import dummy_folder, write_dummy
from data_pipelines.feeding import loading
from data_pipelines.feeding.feed import TrainFeed, evaluation_batches
from data_pipelines.feeding.loading import find_prepared, load_data, render_missing
from data_pipelines.preparing.prepare import prepare, prepared_path
from vop_jax import evaluate
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training.config import check_config, default_values
from vop_jax.training.job import run_job
from vop_jax.training.presets import PRESETS
from vop_jax.weights.config_file import load_size
from vop_jax.weights.locate import BACKBONE
from vop_jax.weights.tokenizer import load_tokenizer

OWN = [name for name, row in DATASETS.items() if not row.rendered]
PAPER = ["msrvtt_9k", "msrvtt_7k", "didemo", "activitynet", "lsmdc"]


@pytest.mark.parametrize("dataset", OWN)
def test_the_dummy_is_in_the_published_form(dataset):
    row = DATASETS[dataset]
    found = row.read(dummy_folder(row))
    assert len(found.splits["train"]) >= 12
    assert len(found.splits["test"]) == 8
    folder = dummy_folder(row).parent
    assert dataset in (folder / "README.md").read_text()
    citation = folder / "CITATIONS.bib"
    assert dataset == "custom" or "@" in citation.read_text()


@pytest.mark.parametrize("dataset", PAPER)
def test_the_papers_setting_is_a_preset(dataset):
    config = check_config(default_values("vop", dataset, "demo"))
    assert (config.num_frames, config.batch_size, config.epochs) == (12, 32, 5)
    assert config.epoch_of == "pairs"
    assert config.optimizer.weight_decay == 0.2
    assert config.augmentation.crop == 1
    assert not config.augmentation.flip
    assert config.prompts.caption_length(77) == 77


def test_a_preset_and_a_row_go_together():
    assert set(PRESETS) == set(DATASETS)


def test_the_backbone_is_the_papers_unless_named_and_gives_its_layers(
    monkeypatch, tmp_path
):
    def offline(_, name, **__):
        raise ConnectionError(f"no network for {name}")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = check_config(get_config("dataset=msrvtt_9k").to_dict())
    assert config.backbone == "vit_b32"
    with pytest.raises(UserError, match=r"no network for openai/.*pass a folder that"):
        _ = config.backbone_folder
    with pytest.raises(UserError, match=r"dataset=msrvtt_9k,backbone=FOLDER"):
        _ = dataclasses.replace(config, backbone="").backbone_folder
    # The demo's tower has 4 layers, of which the last is joint.
    named = default_values("vop_f", "msrvtt_9k", str(BACKBONE))
    assert named["prompts"]["split_layer"] == 3
    assert default_values("vop_f", "msrvtt_9k")["prompts"]["split_layer"] == 8


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"holdout": 0}, "holdout is 0; it must be from 1"),
        ({"memory_gb": -1.0}, "memory_gb is -1.0; it must be from 0"),
        (
            {"augmentation": {"flip": False, "crop": 0.0, "jitter": False}},
            "crop is 0.0; it must be above 0",
        ),
    ],
)
def test_fields_of_the_data_are_checked(changes, says):
    with pytest.raises(UserError, match=says):
        check_config(default_values("vop", "custom", "demo") | changes)


def test_what_is_not_prepared_is_told_with_its_flags(tmp_path):
    with pytest.raises(UserError, match=r"--dataset=msvd .*DIR --image_size=48"):
        find_prepared("msvd", str(tmp_path), 12, 48)
    other = tmp_path / "8x48" / "msvd" / "1.0.0"
    other.mkdir(parents=True)
    # A digit to `str.isdigit`, which `int` does not read.
    (tmp_path / "\N{SUPERSCRIPT TWO}x48" / "msvd" / "1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"=48 \(or use num_frames=8, as {other} has"):
        find_prepared("msvd", str(tmp_path), 12, 48)


def test_a_look_up_renders_nothing(tmp_path, monkeypatch):
    rendered = []
    monkeypatch.setattr(
        loading,
        "prepare",
        lambda dataset, *_, **__: rendered.append(dataset),
    )
    with pytest.raises(UserError, match="is missing; run"):
        find_prepared("demo", str(tmp_path), 4, 48)
    assert not rendered
    # Only what can be rendered is, once, and by the process that is told to.
    render_missing("msvd", str(tmp_path), 4, 48)
    render_missing("demo", str(tmp_path), 4, 48, once=lambda work: None)
    assert not rendered
    render_missing("demo", str(tmp_path), 4, 48)
    assert rendered == ["demo"]
    prepared_path("demo", str(tmp_path), 4, 48).mkdir(parents=True)
    render_missing("demo", str(tmp_path), 4, 48)
    assert rendered == ["demo"]


def prepared(dataset, folder, **options):
    write_dummy(dataset, folder / dataset)
    prepare(
        dataset,
        folder / "data",
        videos=folder / dataset / "videos",
        annotations=folder / dataset / "annotations",
        image_size=48,
        **options,
    )
    return str(folder / "data")


@pytest.mark.slow
@pytest.mark.parametrize("dataset", OWN)
def test_every_dummy_becomes_batches(dataset, tmp_path):
    size = load_size(BACKBONE)
    data = load_data(
        dataset,
        prepared(dataset, tmp_path),
        num_frames=8,
        image_size=48,
        tokenize=load_tokenizer(BACKBONE, size),
    )
    train = data.splits["train"]
    feed = TrainFeed(train, batch_size=8, seed=0, epoch_of="pairs")
    (batch,) = feed.batches(0, 1)
    # 12 are stored, 8 of them used.
    assert batch["frames"].shape == (8, 8, 48, 48, 3)
    assert (batch["text_ids"] == size.eos_id).any(axis=1).all()
    (test,) = evaluation_batches(data.splits["test"], 8)
    assert test["mask"].all()
    held = set(data.splits["validation"].video_ids)
    assert held
    assert not held & (set(train.video_ids) | set(data.splits["test"].video_ids))
    assert data.provenance["dataset"] == dataset


def config(dataset, data_dir, **changes):
    values = get_config(f"dataset={dataset},backbone=demo,method=vop").to_dict()
    small = {"batch_size": 8, "epochs": 1, "save_every": 100, "data_dir": data_dir}
    return check_config(values | small | changes)


@pytest.mark.slow
def test_a_run_on_a_multi_caption_set_with_a_gap(tmp_path, capsys):
    write_dummy("msvd", tmp_path / "msvd")
    test = (tmp_path / "msvd/annotations/test_list.txt").read_text().split()
    (tmp_path / f"msvd/videos/{test[2]}.mp4").unlink()
    data_dir = prepared("vatex", tmp_path)
    prepare(
        "msvd",
        data_dir,
        videos=tmp_path / "msvd/videos",
        annotations=tmp_path / "msvd/annotations",
        image_size=48,
        allow_missing_test=True,
    )
    folder = RunFolder(tmp_path / "run")
    results = run_job(config("msvd", data_dir), folder)
    assert (results["videos"], results["queries"]) == (7, 25)
    assert results["left_out"] == 1
    assert "v2t_best_caption" in results
    written = json.loads(folder.results.read_text())
    assert written["data"]["splits"]["test"]["left_out"] == 1
    # The same data again, and then others.
    evaluate_run(folder, data_dir, tmp_path / "same.json")
    assert "warning" not in capsys.readouterr().err
    same = json.loads((tmp_path / "same.json").read_text())
    for way in ("t2v", "v2t"):
        assert same[way] == pytest.approx(results[way])
    assert same["left_out"] == 1
    other = prepared("msvd", tmp_path / "whole")
    evaluate_run(folder, other, tmp_path / "other.json")
    said = capsys.readouterr().err
    assert "warning: this data is not the training data: the test split" in said


def evaluate_run(folder, data_dir, output):
    with pytest.raises(SystemExit) as ended:
        evaluate.main(
            [
                f"--checkpoint={folder.path}",
                f"--data_dir={data_dir}",
                f"--json={output}",
                "--bank_captions=0",
                "--resamples=10",
            ]
        )
    assert ended.value.code == 0


@pytest.mark.slow
def test_a_run_with_a_held_out_validation_split_from_disk(tmp_path):
    data_dir = prepared("msrvtt_9k", tmp_path)
    runs = []
    for name, memory_gb in (("memory", 1.0), ("disk", 0.0)):
        folder = RunFolder(tmp_path / name)
        chosen = config("msrvtt_9k", data_dir, memory_gb=memory_gb)
        results = run_job(chosen, folder)
        assert (results["videos"], results["queries"]) == (8, 8)
        losses = [
            json.loads(line).get("loss")
            for line in folder.metrics.read_text().splitlines()
        ]
        runs.append(np.array([loss for loss in losses if loss is not None]))
    assert len(runs[0])
    np.testing.assert_array_equal(*runs)
