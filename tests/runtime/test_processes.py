"""Real processes over gloo on the CPU: the same run on any number of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiers import by_hand

from configs.vop import get_config
from data_pipelines.console.errors import UserError
from data_pipelines.datasets.demo import world
from data_pipelines.preparing.prepare import prepare
from vop_jax.devices.config import MeshConfig
from vop_jax.devices.mesh import make_mesh
from vop_jax.runtime import processes
from vop_jax.runtime.exit_status import INTERRUPTED, PREEMPTED, PROCESS_LOST
from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.scoring.metrics import retrieval_counts

ROOT = Path(__file__).parents[2]
# Seconds; on two busy cores four processes take minutes to compile.
LIMIT = 900
# Starved of a core for longer, a process counts as lost.
HEARTBEAT = 60


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("host:1", None, None), "together"),
        ((None, 2, 0), "together"),
        (("host", 2, 0), "HOST:PORT"),
        (("host:1", 2, 2), "from 0 to 1"),
    ],
)
def test_half_an_address_is_refused(given, says):
    with pytest.raises(UserError, match=says):
        processes.start(*given)


def test_a_single_process_joins_nothing(monkeypatch):
    monkeypatch.setattr(
        processes.jax.distributed, "initialize", lambda *_, **__: pytest.fail("joined")
    )
    processes.start(None, 1, None)


def test_where_no_cluster_is_found_the_process_is_alone():
    code = (
        "from vop_jax.runtime import processes; import jax; "
        "processes.start(None, None, None); "
        "assert jax.process_count() == 1; "
        "assert not jax.distributed.is_initialized()"
    )
    # In a process of its own: in this one JAX may be in use already.
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_slurm_is_found():
    """JAX's own detection, told by the variables of a step of two tasks."""
    code = (
        "from vop_jax.runtime import processes; import jax; "
        "processes.start(None, None, None); "
        "assert jax.process_count() == 2; "
        "assert jax.process_index() == int(__import__('os').environ['SLURM_PROCID'])"
    )
    step = {
        **{"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"},
        **{"SLURM_NTASKS": "2", "JAX_PLATFORMS": "cpu"},
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, **step, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            stdout=subprocess.DEVNULL,
        )
        for i in range(2)
    ]
    assert finish(started) == [0, 0]


def test_the_devices_of_a_process_stand_together():
    """On a TPU slice ids run over the hosts; a host gives adjacent rows."""
    devices = [SimpleNamespace(id=i, process_index=(i // 2) % 2) for i in range(8)]
    order = make_mesh_order(devices)
    assert [x.process_index for x in order] == [0] * 4 + [1] * 4


def make_mesh_order(devices):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vop_jax.devices.mesh.Mesh", lambda devices, *_, **__: devices)
        return make_mesh(MeshConfig(), devices).reshape(-1).tolist()


def test_a_mistake_of_process_0_is_everybodys(monkeypatch):
    def fails():
        raise UserError("no room")

    with pytest.raises(UserError, match="no room"):
        processes.main_first(fails)
    monkeypatch.setattr(processes, "is_main", lambda: False)
    monkeypatch.setattr(processes, "from_main", lambda value: 1)
    with pytest.raises(UserError, match="process 0 has stopped"):
        processes.main_first(lambda: pytest.fail("called off process 0"))


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A run of three steps; its first moments are a tenth of the first gradient."""
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "SPLITS", {"train": 48, "validation": 16, "test": 16})
        prepare("demo", data)
    found = get_config("method=vop_p").to_dict()
    found["optimizer"] |= {"clip_norm": 0.0, "warmup": 0.0}
    found["compute"] |= {"scan": True}
    return found | {
        **{"data_dir": str(data), "epochs": 1, "batch_size": 16, "group_size": 4},
        **{"log_every": 1, "save_every": 1},
    }


def start(folder, values, count, devices, heartbeat=HEARTBEAT, **changes):
    """Starts all processes of a run; their standard output is nobody's (gloo's)."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace(
            "device_count=8", f"device_count={devices}"
        ),
    }
    started = []
    for index in range(count):
        given = {
            "values": values | changes,
            "folder": str(folder / "run"),
            "output": str(folder / f"{index}.npz"),
            "index": index,
            "count": count,
            "coordinator": address,
            "heartbeat": heartbeat,
        }
        with (folder / f"{index}.log").open("w") as log:
            started.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "tests/helpers/process_worker.py",
                        json.dumps(given),
                    ],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
            )
    return started


def finish(started):
    """The statuses; a process that hangs is killed and fails the test."""
    end = time.monotonic() + LIMIT
    try:
        return [x.wait(max(end - time.monotonic(), 1)) for x in started]
    finally:
        for process in started:
            process.kill()


def outcome(folder, count):
    losses = [x["loss"] for x in read_metrics(RunFolder(folder / "run")) if "loss" in x]
    return losses, [dict(np.load(folder / f"{i}.npz")) for i in range(count)]


@pytest.fixture(scope="module")
def single(values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "1x1"
    assert finish(start(folder, values, 1, 1)) == [0]
    return folder, *outcome(folder, 1)


def relative(ours, theirs):
    return np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "devices"),
    [by_hand(1, 4), by_hand(2, 1), (4, 2)],
)
def test_any_number_of_processes_and_devices_is_the_same_run(
    single, values, count, devices
):
    folder, losses, (alone,) = single
    own = folder.with_name(f"{count}x{devices}")
    assert finish(start(own, values, count, devices)) == [0] * count
    found, parts = outcome(own, count)
    assert len(found) == 3
    # The first loss is of equal parameters; later ones follow from rounded gradients.
    assert found[0] == pytest.approx(losses[0], abs=1e-6)
    assert found == pytest.approx(losses, abs=1e-4)
    wanted = alone["similarity"]
    for part in parts:
        for name, moment in alone.items():
            if name.startswith("moment:") and "/mu/" in name:
                assert relative(part[name], moment) <= 1e-5, name
        for way, counts in retrieval_counts(wanted).items():
            found = retrieval_counts(part["similarity"])[way]
            np.testing.assert_array_equal(found, counts, err_msg=way)
        np.testing.assert_array_equal(part["similarity"], parts[0]["similarity"])
    assert any("/mu/" in name for name in alone)


@pytest.mark.slow
def test_the_survivor_of_a_lost_process_ends_with_one_line(values, tmp_path):
    folder = tmp_path / "lost"
    started = start(folder, values, 2, 1, 10, epochs=2000, save_every=10)
    wait_for_steps(folder, started)
    started[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    assert started[0].wait(LIMIT) == PROCESS_LOST
    assert time.monotonic() - killed < 10 + 15
    started[1].wait()
    said = (folder / "0.log").read_text().splitlines()
    errors = [x for x in said if not x.startswith(("training", "compiling"))]
    assert errors == ["error: another process of this run is lost; start all again"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "receivers", "status"),
    [
        (signal.SIGTERM, [1], PREEMPTED),
        # One process that is asked to end, and a terminal that asks them all.
        by_hand(signal.SIGINT, [1], INTERRUPTED),
        by_hand(signal.SIGINT, [0, 1], INTERRUPTED),
    ],
)
def test_a_signal_saves_the_same_step_on_all(
    values, tmp_path, number, receivers, status
):
    folder = tmp_path / "preempted"
    started = start(folder, values, 2, 1, epochs=2000, save_every=10**6)
    wait_for_steps(folder, started)
    for receiver in receivers:
        started[receiver].send_signal(number)
    assert finish(started) == [status, status]
    done = [x["step"] for x in read_metrics(RunFolder(folder / "run")) if "loss" in x]
    kept = [int(x.name) for x in (folder / "run/checkpoints").iterdir()]
    assert kept == [max(done)]


def wait_for_steps(folder, started):
    end = time.monotonic() + LIMIT
    while not any("loss" in x for x in read_metrics(RunFolder(folder / "run"))):
        assert time.monotonic() < end
        assert all(x.poll() is None for x in started), (folder / "0.log").read_text()
        time.sleep(0.2)
