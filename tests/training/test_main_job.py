"""The main job through its true entry: a small world, trained, broken off, resumed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from small_job import config, data_dir, small_world  # noqa: F401

import vop_jax
from configs.vop import get_config
from data_pipelines.console.errors import UserError
from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training import loop as train
from vop_jax.training.config import check_config
from vop_jax.training.job import run_job

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run") / "whole")
    results = run_job(config(data_dir), folder)
    return folder, results


def test_a_run_leaves_what_it_promises(finished):
    folder, results = finished
    assert json.loads(folder.results.read_text())["t2v"] == results["t2v"]
    assert set(results) >= {"method", "dataset", "split", "queries", "videos"}
    assert results["dtype"] == folder.read_config()["compute"]["dtype"] == "float32"
    assert results["trainable_parameters"] == 3 * 8 * 64 + 4 * 8 * 64
    assert results["queries"] == results["videos"] == 32
    for way in ("t2v", "v2t"):
        assert set(results[way]) == {*("R@1", "R@5", "R@10", "MdR", "MnR", "nDCG@10")}
    lines = [line for line in read_metrics(folder) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert {
        "step",
        "loss",
        "learning_rate",
        "step_seconds",
        "videos_per_second",
        "data_wait_fraction",
    } <= set(lines[0])
    assert list(folder.tensorboard.iterdir())
    page = folder.report.read_text()
    assert page.count('class="example"') == 12
    assert "http" not in page.replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "").replace("https://matplotlib.org", "")


def test_a_folder_in_use_can_be_read_and_not_trained_in(finished, data_dir):
    folder, _ = finished
    before = {x: x.stat().st_mtime_ns for x in Path(folder.path).rglob("*")}
    with folder.alone():
        assert vop_jax.load(folder.path).metadata["method"] == "vop"
        who = f"in use by process {os.getpid()} on "
        with pytest.raises(UserError, match=who):
            run_job(config(data_dir), folder)
    before.pop(Path(folder.path), None)
    assert before == {x: x.stat().st_mtime_ns for x in Path(folder.path).rglob("*")}


def test_tuned_file_holds_the_prompts_alone(finished):
    folder, _ = finished
    named = safetensors.numpy.load_file(folder.tuned)
    assert {name: x.shape for name, x in named.items()} == {
        "text_prompts": (3, 8, 64),
        "video_prompts": (4, 8, 64),
    }
    with safetensors.safe_open(folder.tuned, framework="numpy") as file:
        metadata = json.loads(file.metadata()["vop_jax"])
    assert metadata["format"] == 1
    assert metadata["split_layer"] == 4
    assert len(metadata["backbone_sha256"]) == 64


def test_order_blind_methods_cannot_tell_twins(finished):
    _, results = finished
    assert results["twins"]["t2v"] == pytest.approx(50, abs=30)


@pytest.mark.slow
def test_the_same_command_goes_on_and_ends_with_the_same_bits(
    finished, data_dir, tmp_path, monkeypatch, capsys
):
    whole, _ = finished
    folder = RunFolder(tmp_path / "broken")
    save = train.Checkpoints.save

    def broken_off(self, step, *rest):
        save(self, step, *rest)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(train.Checkpoints, "save", broken_off)
    with pytest.raises(KeyboardInterrupt):
        run_job(config(data_dir), folder)
    assert not folder.tuned.exists()
    monkeypatch.undo()
    run_job(config(data_dir), folder)
    ours = safetensors.numpy.load_file(folder.tuned)
    for name, value in safetensors.numpy.load_file(whole.tuned).items():
        np.testing.assert_array_equal(ours[name], value)
    steps = [line["step"] for line in read_metrics(folder) if "loss" in line]
    assert steps == list(range(1, 7))
    # Each model has a row with its own name in the table.
    shown, told = capsys.readouterr().out, json.loads(folder.results.read_text())
    for name in (told["method"], *told["compared_with"]):
        assert len(re.findall(rf"^ *{name} +[0-9.]+ ", shown, re.M)) == 1, name


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(data_dir, tmp_path):
    folder = RunFolder(tmp_path / "run")
    wild = config(data_dir, optimizer__learning_rate=1e38, optimizer__warmup=0.0)
    with pytest.raises(UserError, match=r"loss of step \d+ is nan .*clip\d+"):
        run_job(wild, folder)
    assert not folder.tuned.exists()
    assert not folder.results.exists()


def test_a_folder_of_another_configuration_is_left_alone(finished, data_dir):
    folder, _ = finished
    before = folder.config.read_text()
    other = config(data_dir, seed=5)
    with pytest.raises(UserError, match="seed is 0 there and 5 here"):
        run_job(other, folder)
    assert folder.config.read_text() == before


@pytest.mark.parametrize(
    ("short_form", "changes", "says"),
    [
        ("", {"batch_size": 64}, "48 videos in groups of 4; use at most 48"),
        ("", {"batch_size": 18}, "does not divide"),
        ("backbone=/nowhere", {}, "config.json is missing"),
        ("", {"prompts__first_layer": 9}, "first_layer is 9"),
        ("", {"mesh__data": 3}, "there are 8"),
    ],
)
def test_what_is_refused_leaves_no_folder(
    data_dir, tmp_path, short_form, changes, says
):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=says):
        run_job(config(data_dir, short_form, **changes), folder)
    assert not folder.path.exists()


def test_nothing_said_is_the_papers_best_method_on_the_demo():
    values = get_config()
    said = (values.method, values.dataset, values.backbone)
    assert said == ("vop_fc", "demo", "demo")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"method": "vip"}, "'vip' is not one of"),
        ({"dataset": "kinetics"}, "'kinetics' is not one of"),
        ({"epochs": 0}, "epochs is 0; it must be from 1"),
        ({"epochs": "two"}, "must be of type int"),
        ({"ties": "lucky"}, "ties must be one of"),
        ({"colour": 1}, "no field colour"),
    ],
)
def test_values_are_checked(values, says):
    with pytest.raises(UserError, match=says):
        check_config(get_config().to_dict() | values)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config=configs/vop.py:methd=vop"], "is not key=value"),
        (["--config=configs/vop.py:method=vip"], "'vip' is not one of"),
        (["--config=configs/none.py"], "configs/none.py"),
        (["--config=configs/vop.py", "--config.epoch=3"], "epoch"),
        (["--config=configs/vop.py", "--config.epochs=three"], "three"),
        (["--workdr=x"], "workdr"),
        ([], "--config is missing"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments, says, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "vop_jax.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
