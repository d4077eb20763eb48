"""Interrupted runs of the demo, and the uninterrupted run they are compared with.

Importing it imports everything a run needs, so that forked children start at once.
"""

# ruff: noqa: E402 - libraries are quiet if told so before they are imported

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from data_pipelines.console.terminal import quiet_libraries, set_main_process

quiet_libraries()

import jax
import tensorboard.summary.writer.event_file_writer  # noqa: F401 - before the fork

from configs.vop import get_config
from data_pipelines.datasets.demo import world
from data_pipelines.preparing.prepare import prepare
from vop_jax.runtime import processes
from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training import checkpoint
from vop_jax.training import loop as train
from vop_jax.training.checkpoint import Checkpoints
from vop_jax.training.config import check_config
from vop_jax.training.fingerprints import fingerprints
from vop_jax.training.run import assemble

# Not by variables of the environment: JAX may have been imported before this.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

SPLITS = {"train": 48, "validation": 16, "test": 16}
SAVE_EVERY, HEARTBEAT = 3, 30
# Seconds after which a child counts as hanging.
LIMIT = 300


def run_values(data: Path, **changes: Any) -> dict[str, Any]:
    """The configuration under test: 24 steps of 12 videos."""
    values = get_config("method=vop").to_dict()
    values |= {"data_dir": str(data), "epochs": 6, "batch_size": 12, "log_every": 1}
    # Fewer seconds to trace, which is most of what a start costs here.
    values["compute"] |= {"scan": True}
    return values | {"save_every": SAVE_EVERY, "group_size": 4} | changes


def digest(state: Any) -> str:
    """One fingerprint of a complete state."""
    arrays = {
        k: processes.to_host(x) for k, x in checkpoint.arrays_by_path(state).items()
    }
    found = fingerprints(arrays)
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def train_in_child(values: dict[str, Any], folder: Path, record: Path) -> None:
    """Trains, and records every restore, save and the end in a file."""
    config = check_config(values)
    save, restore = Checkpoints.save, Checkpoints.restore

    def note(event: str, step: int, state: Any) -> None:
        fingerprint = digest(state)
        if processes.is_main():
            line = {"event": event, "step": step, "digest": fingerprint}
            with record.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def noted_save(self: Checkpoints, step: int, state: Any, *rest: Any) -> None:
        note("saved", step, state)
        save(self, step, state, *rest)

    def noted_restore(self: Checkpoints, template: Any) -> Any:
        found = restore(self, template)
        if found is not None:
            note("restored", found.step, found.state)
        return found

    with (
        mock.patch.object(Checkpoints, "save", noted_save),
        mock.patch.object(Checkpoints, "restore", noted_restore),
    ):
        run = assemble(config, RunFolder(folder))
        train.train(run)
    if processes.is_main():
        with record.open("a") as file:
            file.write(json.dumps({"event": "finished"}) + "\n")


def fork(function: Callable[[], object], log: Path) -> int:
    """Runs a function in a child process with its own log; returns the process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        function()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """A child's exit status (minus the signal that ended it); None while it runs."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.02)


def finish(child: int, seconds: float = LIMIT) -> int:
    """Waits for a child's end; one that hangs is killed, which counts as -9."""
    status = wait(child, seconds)
    if status is None:
        os.kill(child, signal.SIGKILL)
        status = wait(child, LIMIT)
    assert status is not None
    return status


def events(record: Path) -> list[dict[str, Any]]:
    """The events in a record, without a truncated last line."""
    found = []
    for line in record.read_text().splitlines() if record.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


class Campaign:
    """The uninterrupted run, and the interrupted ones that are compared with it.

    Args:
        work: folder for all files.
        seed: decides the moments of the interruptions and the damage.
    """

    def __init__(self, work: Path, seed: int):
        self.work, self.data = work, work / "data"
        self.log = work / "log"
        self.random = random.Random(seed)
        work.mkdir(parents=True, exist_ok=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(work / "xla")
        jax.config.update("jax_compilation_cache_dir", str(work / "xla"))
        with mock.patch.object(world, "SPLITS", SPLITS):
            assert finish(fork(self._prepare, self.log), 1800) == 0
        self.values = run_values(self.data)

    def _prepare(self) -> None:
        prepare("demo", self.data)

    def start(self, name: str, **changes: Any) -> int:
        """Starts or resumes the run of that name."""
        folder, record = self.work / name, self.work / f"{name}.jsonl"
        values = self.values | changes
        return fork(lambda: train_in_child(values, folder, record), self.log)

    def start_pair(self, name: str, **changes: Any) -> list[int]:
        """The same with two processes."""
        folder, record = self.work / name, self.work / f"{name}.jsonl"
        values = self.values | changes
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"

        def run(index: int) -> None:
            processes.start(address, 2, index, heartbeat_seconds=HEARTBEAT)
            set_main_process(processes.is_main())
            processes.end_together(
                lambda: train_in_child(values, folder, record), HEARTBEAT
            )
            jax.distributed.shutdown()

        return [fork(lambda i=i: run(i), self.work / f"log{i}") for i in range(2)]

    def reference(self, name: str, start: Callable[..., Any]) -> dict[int, str]:
        """The state's fingerprint after every step of an uninterrupted run."""
        children = start(name, save_every=1)
        for child in children if isinstance(children, list) else [children]:
            assert finish(child, 1800) == 0, f"the reference run failed, see {self.log}"
        found = events(self.work / f"{name}.jsonl")
        return {x["step"]: x["digest"] for x in found if x["event"] == "saved"}

    def judge(self, name: str, wanted: dict[int, str]) -> dict[str, int]:
        """Compares what a run restored and ended with with the uninterrupted run."""
        found = events(self.work / f"{name}.jsonl")
        restored = [x for x in found if x["event"] == "restored"]
        saved = [x for x in found if x["event"] == "saved"]
        last = max(wanted)
        finals = [x["digest"] for x in saved if x["step"] == last]
        return {
            "restores": len(restored),
            "bad_restores": sum(x["digest"] != wanted[x["step"]] for x in restored),
            "finished": int(any(x["event"] == "finished" for x in found)),
            "bad_ends": sum(x != wanted[last] for x in finals),
        }

    def steps_done(self, name: str) -> int:
        """The last step in a run's metrics."""
        done = read_metrics(RunFolder(self.work / name))
        return max((x["step"] for x in done if "loss" in x), default=0)

    def lost(self, name: str) -> int:
        """The number of steps since the last checkpoint."""
        folder = Path(RunFolder(self.work / name).checkpoints)
        kept = [int(x.name) for x in folder.glob("*") if x.name.isdigit()]
        return self.steps_done(name) - max(kept, default=0)

    def interrupt(self, child: int, name: str, number: int) -> bool:
        """Sends a signal at a random moment; False if the child ended before.

        One in five comes during start-up, the others some steps later, so that the
        moments are spread over the run however fast the machine is.
        """
        start, begun = self.steps_done(name), time.monotonic()
        early = self.random.random() < 0.2
        after = self.random.uniform(0, 3) if early else self.random.uniform(0, 0.3)
        further = 0 if early else self.random.randrange(1, 9)
        while self.steps_done(name) < start + further:
            if wait(child, 0.02) is not None:
                return False
            assert time.monotonic() - begun < LIMIT, "the child hangs"
        if wait(child, after) is not None:
            return False
        os.kill(child, number)
        return True
