"""Commands as real processes on one place: one works, the others are refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.run_folder import RunFolder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# Seconds; busy cores compile slowly.
LIMIT = 600
RUN = """
import runpy, sys
from data_pipelines.datasets.demo import world
world.SPLITS = {"train": 48, "validation": 16, "test": 16}
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
TRAIN = [
    "vop_jax.main",
    "--config=configs/vop.py:method=vop",
    *("--config.batch_size=16", "--config.group_size=4", "--config.log_every=1"),
    *("--config.save_every=1000000", "--config.compute.scan=true"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


def start(place, *arguments):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(place / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace(
            "device_count=8", "device_count=1"
        ),
    }
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(place, folder, *more, epochs=3000):
    flags = [f"--config.data_dir={place / 'data'}", f"--workdir={folder}"]
    return start(place, *TRAIN, *flags, f"--config.epochs={epochs}", *more)


def errors(said):
    return [x for x in said.splitlines() if x.startswith(("error", "Traceback"))]


def wait_for(process, ready):
    end = time.monotonic() + LIMIT
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)


def wait_for_steps(process, folder):
    wait_for(process, lambda: any("loss" in x for x in read_metrics(RunFolder(folder))))


@pytest.mark.campaign
def test_two_first_runs_prepare_the_data_once_and_train_both(place):
    folders = [place / "first", place / "second"]
    started = [train(place, x, epochs=1) for x in folders]
    ended = [x.communicate(timeout=LIMIT) for x in started]
    assert [x.returncode for x in started] == [0, 0], ended
    assert all((x / "results.json").is_file() for x in folders)
    waited = [said for _, said in ended if "waiting for it" in said]
    assert len(waited) <= 1
    assert not [x for x in (place / "data").rglob("*") if "partial" in x.name]
    assert not list((place / "data").rglob("lock"))


def test_a_second_run_is_refused_and_a_killed_one_blocks_nobody(place):
    folder = place / "run"
    first = train(place, folder)
    try:
        wait_for_steps(first, folder)
        before = (folder / "metrics.jsonl").read_bytes()
        second = train(place, folder)
        _, said = second.communicate(timeout=LIMIT)
        assert second.returncode == 2
        (line,) = said.splitlines()
        assert f"{folder} is in use by process {first.pid} on " in line
        assert (folder / "metrics.jsonl").read_bytes().startswith(before)
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    written = (folder / "metrics.jsonl").stat().st_ino
    third = train(place, folder)
    try:
        # It begins with a file of its own, since nothing was saved.
        wait_for(third, lambda: (folder / "metrics.jsonl").stat().st_ino != written)
        wait_for_steps(third, folder)
        third.send_signal(signal.SIGINT)
        out, said = third.communicate(timeout=LIMIT)
    finally:
        third.kill()
    assert third.returncode == 130, said
    assert not errors(said)
    assert "Ctrl-C: step" in out.splitlines()[-1]
    kept = [int(x.name) for x in (folder / "checkpoints").iterdir()]
    assert kept == [max(x["step"] for x in read_metrics(RunFolder(folder)))]
    assert not (folder / ".lock").exists()
    fourth = train(place, folder)
    try:
        wait_for(
            fourth,
            lambda: any(x["step"] > kept[0] for x in read_metrics(RunFolder(folder))),
        )
        # A second one, while the first waits for the step.
        fourth.send_signal(signal.SIGINT)
        time.sleep(0.4)
        sent = time.monotonic()
        fourth.send_signal(signal.SIGINT)
        fourth.communicate(timeout=LIMIT)
        # Where the first has all but ended it, Python no longer handles the second,
        # and the system ends the process: a shell calls that 130 as well.
        assert fourth.returncode in (130, -signal.SIGINT)
        assert time.monotonic() - sent < 10
    finally:
        fourth.kill()


@pytest.mark.parametrize("delay", [0.0, 2.0, 5.0])
def test_an_interrupt_at_any_moment_is_one_line(place, delay):
    folder = place / f"delay{delay}"
    process = train(place, folder)
    wait_for(process, (folder / ".lock").exists)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, (out, said)
    assert not errors(said)
    assert "interrupted" in said


@pytest.mark.campaign
def test_a_second_study_is_refused(place):
    output = place / "study"
    flags = [f"--data_dir={place / 'data'}", f"--output={output}", "--epochs=3000"]
    command = ["vop_jax.ablate", "--study=table4", "--seeds=0", "--rates=1", *flags]
    first = start(place, *command)
    try:
        wait_for(first, lambda: (output / ".lock").exists())
        second = start(place, *command)
        _, said = second.communicate(timeout=LIMIT)
        assert second.returncode == 2
        (line,) = said.splitlines()
        assert f"in use by process {first.pid} on " in line
        assert "--output" in line
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=LIMIT)
        assert first.returncode == 130
        assert not errors(said)
    finally:
        first.kill()
        first.communicate()
    # What was compiled stays; neither lock nor anything half written does.
    assert not (output / ".lock").exists()
