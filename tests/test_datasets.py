"""Every data set from its dummy to the model, and a run on two of them."""

import json

import numpy as np
import pytest

from configs.vop import get_config
from data_pipelines.datasets import DATASETS
from data_pipelines.dummy import dummy_folder, write_dummy
from data_pipelines.errors import UserError
from data_pipelines.feed import TrainFeed, evaluation_batches
from data_pipelines.prepare import prepare
from vop_jax import evaluate
from vop_jax.backbone import load_size
from vop_jax.config import check_config, default_values
from vop_jax.demo import BACKBONE
from vop_jax.job import run_job
from vop_jax.presets import PRESETS
from vop_jax.run import find_prepared, load_data
from vop_jax.run_folder import RunFolder
from vop_jax.tokenizer import load_tokenizer

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


def test_a_backbone_must_be_named_and_gives_its_layers():
    config = check_config(get_config("dataset=msrvtt_9k").to_dict())
    with pytest.raises(UserError, match=r"dataset=msrvtt_9k,backbone=FOLDER"):
        _ = config.backbone_folder
    # The demo's tower has 4 layers, of which the last is joint.
    named = default_values("vop_f", "msrvtt_9k", str(BACKBONE))
    assert named["prompts"]["split_layer"] == 3
    assert default_values("vop_f", "msrvtt_9k")["prompts"]["split_layer"] == 8


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"holdout": 0}, "holdout must be at least 1"),
        ({"memory_gb": -1.0}, "memory_gb must not be negative"),
        ({"augmentation": {"flip": False, "crop": 0.0, "jitter": False}}, "crop is a"),
    ],
)
def test_fields_of_the_data_are_checked(changes, says):
    with pytest.raises(UserError, match=says):
        check_config(default_values("vop", "custom", "demo") | changes)


def test_what_is_not_prepared_is_told_with_its_flags(tmp_path):
    with pytest.raises(UserError, match=r"--dataset=msvd .*DIR --image_size=48"):
        find_prepared("msvd", str(tmp_path), 12, 48)


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
    feed = TrainFeed(train, data.ids["train"], batch_size=8, seed=0, epoch_of="pairs")
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
    assert "warning: these data are not those of the training: the test split" in said


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
