"""What goes wrong in a run, through the true loop: SIGTERM, NaN, no room, a hang."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_job import config, data_dir, small_world  # noqa: F401

from data_pipelines.console.errors import UserError
from vop_jax.optimization.config import NAN_POLICIES
from vop_jax.optimization.nan_policy import skip_non_finite_steps
from vop_jax.optimization.train_step import TrainState
from vop_jax.runtime import watchdog
from vop_jax.runtime.exit_status import INTERRUPTED, PREEMPTED, STALLED
from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.preemption import Preempted, Preemption
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training import loop as train
from vop_jax.training.checkpoint import Checkpoints
from vop_jax.training.config import check_config
from vop_jax.training.job import run_job
from vop_jax.training.run import assemble

ROOT = Path(__file__).parents[2]


def small(data_dir, **changes):
    """Six steps of a program that compiles fast."""
    return config(data_dir, compute__scan=True, **changes)


def arrays_of(variables):
    return [np.asarray(x) for x in jax.tree.leaves(variables)]


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    """The same programs again and again: compiled by the first run that needs them."""
    before = jax.config.jax_compilation_cache_dir
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


@pytest.fixture(scope="module")
def shared(data_dir, tmp_path_factory):
    """A run whose backbone and data the others use again."""
    folder = RunFolder(tmp_path_factory.mktemp("shared") / "run")
    return assemble(small(data_dir), folder)


def run_of(shared, folder, **changes):
    return assemble(small(shared.config.data_dir, **changes), RunFolder(folder), shared)


@pytest.fixture(scope="module")
def unbroken(shared):
    return arrays_of(train.train(shared))


def poisoned(step_number):
    """A step whose gradient overflows once, as that of a damaged video would."""
    make = train.make_train_step

    def made(*given, **named):
        step = make(*given, **named)

        def poison(state, frozen, batch):
            scale = jnp.where(state.step == step_number - 1, jnp.inf, 1.0)
            frozen = {**frozen, "params": {**frozen["params"]}}
            frozen["params"]["logit_scale"] = frozen["params"]["logit_scale"] * scale
            return step(state, frozen, batch)

        return poison

    return made


@pytest.mark.slow
def test_a_poisoned_batch_stops_the_run_and_is_never_saved(
    shared, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "make_train_step", poisoned(4))
    run = run_of(shared, tmp_path / "run")
    with pytest.raises(UserError, match=r"step 4 .*; the checkpoint of step 2 is kept"):
        train.train(run)


@pytest.mark.campaign
def test_a_poisoned_batch_is_skipped_and_the_run_ends_finite(
    shared, unbroken, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(train, "make_train_step", poisoned(4))
    run = run_of(shared, tmp_path / "run", nan_policy="skip", nan_skips=1)
    variables = arrays_of(train.train(run))
    assert all(np.isfinite(x).all() for x in variables)
    assert any((x != y).any() for x, y in zip(variables, unbroken, strict=True))
    assert "the update is skipped, 1 of config.nan_skips=1" in capsys.readouterr().err


@pytest.mark.slow
def test_more_poison_than_allowed_ends_the_run(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "make_train_step", poisoned(4))
    run = run_of(shared, tmp_path / "run", nan_policy="skip", nan_skips=0)
    with pytest.raises(UserError, match="after 0 skipped updates"):
        train.train(run)


def tiny_step(state, frozen, batch):
    gradient = batch["x"] * state.trainable
    moved = state.replace(
        step=state.step + 1,
        trainable=state.trainable - gradient,
        optimizer=state.optimizer + gradient,
    )
    return moved, {"loss": batch["loss"], "gradient_norm": jnp.linalg.norm(gradient)}


@pytest.mark.parametrize(
    ("loss", "x", "moves"),
    [(1.0, 1.0, True), (np.nan, 1.0, False), (1.0, np.inf, False)],
)
def test_a_skipped_step_touches_nothing_but_the_count(loss, x, moves):
    state = TrainState(
        jnp.int32(3), jnp.float32(0.1), jnp.arange(3.0), jnp.full(3, 0.5)
    )
    batch = {"x": jnp.float32(x), "loss": jnp.float32(loss)}
    after, _ = jax.jit(skip_non_finite_steps(tiny_step))(state, None, batch)
    assert int(after.step) == 4
    kept = np.array_equal(after.trainable, state.trainable)
    assert kept == np.array_equal(after.optimizer, state.optimizer) == (not moves)
    # Control: the bare step does move, to something that is no number.
    bare, _ = tiny_step(state, None, batch)
    assert not np.array_equal(bare.trainable, state.trainable)


def test_policies_are_names():
    assert NAN_POLICIES == ("stop", "skip")


def at_step(monkeypatch, number, what):
    """Calls something when a step's loss has been looked at."""
    look = train._Loop.checked_loss

    def looked(self, done):
        loss = look(self, done)
        if done.step == number:
            what()
        return loss

    monkeypatch.setattr(train._Loop, "checked_loss", looked)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "why"),
    [
        (signal.SIGTERM, PREEMPTED, "SIGTERM: step"),
        (signal.SIGINT, INTERRUPTED, "Ctrl-C: step"),
    ],
)
def test_a_signal_saves_and_the_second_run_ends_with_the_same_bits(
    shared, unbroken, tmp_path, monkeypatch, capsys, number, status, why
):
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), number))
        run = run_of(shared, tmp_path / "run", save_every=100)
        with pytest.raises(Preempted) as ended:
            train.train(run)
    assert ended.value.code == status == 128 + number
    assert capsys.readouterr().out.splitlines()[-1].startswith(why)
    steps = [x["step"] for x in read_metrics(run.folder) if "loss" in x]
    assert Checkpoints(run.folder.checkpoints).steps == [max(steps)]
    assert ended.value.step == max(steps) < 6
    again = arrays_of(train.train(run_of(shared, tmp_path / "run", save_every=100)))
    for ours, theirs in zip(again, unbroken, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    lines = [x["step"] for x in read_metrics(run.folder) if "loss" in x]
    assert lines == list(range(1, 7))


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, PREEMPTED), (signal.SIGINT, INTERRUPTED)],
)
def test_the_handler_is_there_while_training_alone(number, status):
    before = signal.getsignal(number)
    with Preemption() as noticed:
        assert signal.getsignal(number) != before
        assert not noticed.due(1)
        os.kill(os.getpid(), number)
        assert noticed.due(1)
        assert noticed.status() == status
    assert signal.getsignal(number) == before


@pytest.mark.slow
def test_another_backbone_and_other_data_are_refused(shared, unbroken):
    folder = shared.folder.path
    other = run_of(shared, folder)
    backbone = other.backbone._replace(sha256="0" * 64)
    with pytest.raises(UserError, match="another backbone than"):
        train.train(dataclasses.replace(other, backbone=backbone))
    other = run_of(shared, folder)
    other.data.splits["train"].token_ids[0, 1] += 1
    try:
        with pytest.raises(UserError, match="other training data than"):
            train.train(other)
    finally:
        other.data.splits["train"].token_ids[0, 1] -= 1


@pytest.mark.slow
def test_what_changes_no_result_may_change_when_a_run_goes_on(shared, unbroken):
    folder = shared.folder.path
    changed = {"mesh__fsdp": 2, "profile_steps": "1:2", "compute__remat": "full"}
    run = run_of(shared, folder, log_every=3, **changed)
    for ours, theirs in zip(arrays_of(train.train(run)), unbroken, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        run_of(shared, folder, seed=1)


@pytest.mark.slow
def test_lines_of_metrics_say_where_the_time_went(shared, unbroken):
    first, *lines = list(read_metrics(shared.folder))
    assert first.keys() == {"step", "started"}
    goodput = [x["goodput"] for x in lines if "loss" in x]
    assert all(0 < x < 1 for x in goodput)
    assert any("save_seconds" in x for x in lines)
    # A chip whose peak nobody knows has no utilisation.
    assert not any("model_flops_utilisation" in x for x in lines)


@pytest.mark.slow
def test_a_trace_of_some_steps(shared, tmp_path):
    run = run_of(shared, tmp_path / "run", profile_steps="2:3")
    train.train(run)
    (file,) = Path(run.folder.tensorboard).rglob("*.xplane.pb")
    trace = jax.profiler.ProfileData.from_file(str(file))
    names = [
        (event.name, dict(event.stats).get("step_num"))
        for plane in trace.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    assert sorted(names) == [("train", 2), ("train", 3)]


@pytest.mark.parametrize("steps", ["10", "3:2", "0:4", "a:b"])
def test_steps_to_trace_are_checked(steps):
    from configs.vop import get_config

    with pytest.raises(UserError, match="profile_steps"):
        check_config(get_config().to_dict() | {"profile_steps": steps})


HANG = """
import sys, time
from vop_jax.runtime.watchdog import Watchdog
def a_step_that_hangs():
    time.sleep(30)
with Watchdog(float(sys.argv[1])) as dog:
    for _ in range(4):
        time.sleep(0.2)
        dog.alive()
    a_step_that_hangs()
"""


def test_a_hang_ends_with_the_stacks_and_a_status():
    done = subprocess.run(
        [sys.executable, "-c", HANG, "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == STALLED
    assert "a_step_that_hangs" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: no step was finished for 3")
    assert watchdog.STALLED == 124


def test_no_watchdog_waits_for_ever():
    """Control: the same hang without one is still there after that time."""
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-c", HANG, "0"],
            cwd=ROOT,
            capture_output=True,
            timeout=3,
            check=False,
        )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 50 MB; only root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", place],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted; the quota test below needs no mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.campaign
def test_a_full_disk_is_one_line_and_loses_nothing(
    shared, unbroken, small_disk, monkeypatch
):
    """The disk fills up after the first checkpoint, and is then made room on."""
    filler = small_disk / "filler"

    def fill():
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(2**20)) == 2**20:
                pass

    with monkeypatch.context() as patch:
        at_step(patch, 3, fill)
        with pytest.raises(UserError, match="no room is left"):
            run_job(small(shared.config.data_dir), RunFolder(small_disk / "run"))
    filler.unlink()
    folder = RunFolder(small_disk / "run")
    kept = Checkpoints(folder.checkpoints)
    assert kept.steps == [2]
    kept.close()
    again = arrays_of(train.train(run_of(shared, small_disk / "run")))
    for ours, theirs in zip(again, unbroken, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not list(Path(folder.checkpoints).glob("*tmp*"))
    json.loads(folder.config.read_text())
