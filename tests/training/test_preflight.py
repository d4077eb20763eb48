"""What cannot work is said first, with the field and a value that would."""

import re
from pathlib import Path

import pytest

from configs.vop import get_config
from data_pipelines.catalog.table import DATASETS
from data_pipelines.console.errors import UserError
from data_pipelines.datasets.demo import world
from data_pipelines.feeding import loading
from vop_jax.model.clip.families import known_size
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training import job, run
from vop_jax.training.config import check_config
from vop_jax.training.job import run_job
from vop_jax.training.preflight import check_devices, check_fields, check_sizes
from vop_jax.training.run import known_sizes
from vop_jax.training.scores import Scores

SIZES = {"train": 20, "validation": 4, "test": 8}


def config(**changes):
    values = get_config("method=vop").to_dict()
    return check_config(values | {"batch_size": 16, "group_size": 2} | changes)


def check(sizes=SIZES, devices=2, held_out=0, **changes):
    made = config(**changes)
    check_fields(made)
    check_devices(made, devices)
    check_sizes(made, devices, sizes, held_out)


@pytest.mark.parametrize(
    ("changes", "sizes", "says"),
    [
        (
            {"batch_size": 32},
            {},
            "config.batch_size is 32, but the train split has 20 videos in groups of "
            "2; use at most 20",
        ),
        ({"batch_size": 24}, {"train": 21}, "21 videos in groups of 2; use at most 20"),
        ({"group_size": 1}, {"train": 11}, "11 videos; use at most 10"),
        ({}, {"train": 1}, "1 videos in groups of 2; too few for 2 devices"),
        ({}, {"train": 0}, "0 videos in groups of 2; too few"),
        ({"batch_size": 15}, {}, "divide over groups of 2; use 14 or 16"),
        ({"batch_size": 1}, {}, "divide over groups of 2; use 2"),
        ({"batch_size": 15, "group_size": 1}, {}, "over 2 devices; use 14 or 16"),
        ({"batch_size": 12, "micro_batch": 3}, {}, "micro_batch is 3.*use 2, or 0"),
        (
            {"epoch_of": "pairs"},
            {},
            "set config.group_size=1 or config.epoch_of=videos",
        ),
        ({}, {"validation": 0}, "validation split of demo is empty"),
        ({}, {"test": 0}, "test split of demo is empty"),
        ({"profile_steps": "2:4", "epochs": 3}, {}, "the run has 3 steps"),
        ({"profile_steps": "\uff11:2", "epochs": 3}, {}, "use FIRST:LAST"),
        ({"profile_steps": f"1:{'9' * 5000}"}, {}, "use FIRST:LAST"),
    ],
)
def test_the_field_and_a_value_that_works_are_named(changes, sizes, says):
    with pytest.raises(UserError, match=says) as error:
        check(SIZES | sizes, **changes)
    assert "\n" not in str(error.value)


def test_what_works_is_let_through():
    check()
    check(profile_steps="2:3", epochs=3)
    check({"train": 16})
    check({"train": 40}, epoch_of="pairs", group_size=1, micro_batch=4)
    check({"validation": 3})


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("group", [1, 2, 3, 4])
@pytest.mark.parametrize("train", [0, 5, 12, 50, 97])
def test_the_value_that_is_named_works(train, group, devices):
    unit = devices * group
    sizes = SIZES | {"train": train}
    with pytest.raises(UserError) as error:
        check(sizes, devices, batch_size=unit * 100, group_size=group)
    named = re.search(r"use at most (\d+)$", str(error.value))
    if named:
        check(sizes, devices, batch_size=int(named[1]), group_size=group)
        larger = int(named[1]) + 1
        while larger % unit:
            larger += 1
        with pytest.raises(UserError):
            check(sizes, devices, batch_size=larger, group_size=group)
    else:
        assert train // group * group < unit


def test_nothing_is_rendered_read_or_compiled_before_it_is_said(tmp_path, monkeypatch):
    for place, name in (
        (loading, "prepare"),
        (run, "load_backbone"),
        (loading, "load_split"),
        (job, "train"),
        (Scores, "evaluate_untuned"),
    ):
        monkeypatch.setattr(place, name, lambda *_, name=name, **__: pytest.fail(name))
    monkeypatch.setattr(world, "SPLITS", {"train": 48, "validation": 8, "test": 8})
    wrong = config(batch_size=64, group_size=4, data_dir=str(tmp_path / "data"))
    with pytest.raises(UserError, match="has 48 videos in groups of 4; use at most 48"):
        run_job(wrong, RunFolder(tmp_path / "run"))
    assert not list(tmp_path.iterdir())
    # Control: what fits goes on to the weights.
    fits = config(batch_size=48, group_size=4, data_dir=str(tmp_path / "data"))
    with pytest.raises(pytest.fail.Exception, match="load_backbone"):
        run_job(fits, RunFolder(tmp_path / "run"))


@pytest.mark.parametrize(("keep", "left"), [(False, 27), (True, 30)])
def test_videos_that_are_held_out_are_not_counted_twice(monkeypatch, keep, left):
    monkeypatch.setattr(run, "split_sizes", lambda path: {"train": 30, "test": 9})
    monkeypatch.setattr(run, "find_prepared", lambda *_, **__: Path("/"))
    made = config(dataset="msrvtt_9k", train_on_holdout=keep)
    sizes, held = known_sizes(made, known_size("vit_b32"))
    assert (sizes, held) == ({"train": left, "validation": 3, "test": 9}, 3)
    if not keep:
        with pytest.raises(
            UserError, match=r"27 videos besides the 3 that config\.holdo"
        ):
            check_sizes(config(batch_size=28, group_size=1), 1, sizes, held)


def test_a_data_set_that_renders_says_what_it_will_have():
    for name, row in DATASETS.items():
        assert bool(row.sizes_to_be()) == row.rendered, name


IN_THE_WAY = (
    ["checkpoints", "tensorboard", "report"],
    [
        "config.json",
        "metrics.jsonl",
        "tuned.safetensors",
        "results.json",
        "report/index.html",
    ],
)


@pytest.mark.parametrize("name", [*IN_THE_WAY[0], *IN_THE_WAY[1]])
def test_what_is_in_the_way_is_named_first(tmp_path, monkeypatch, name):
    monkeypatch.setattr(job, "Run", lambda *_: pytest.fail("began"))
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.touch() if name in IN_THE_WAY[0] else path.mkdir()
    with pytest.raises(UserError, match=f"{name} is in the way"):
        run_job(config(), RunFolder(tmp_path / "run"))
    assert path.exists()
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("name", ["file", "file/below/it", "n" * 300, "null\0byte"])
def test_a_place_that_cannot_be_a_folder(tmp_path, monkeypatch, name):
    monkeypatch.setattr(job, "Run", lambda *_: pytest.fail("began"))
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="use another --workdir") as error:
        run_job(config(), RunFolder(f"{tmp_path}/{name}"))
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "precious"
