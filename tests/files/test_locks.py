"""One process at a place: real processes, killed ones, hosts that see no lock."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_bucket
import pytest
from etils import epath

from data_pipelines.console.errors import UserError
from data_pipelines.files import leases, locks
from data_pipelines.files.leases import Lease
from data_pipelines.files.locks import exclusive, is_local
from data_pipelines.files.owners import Owner

ROOT = Path(__file__).parents[2]
# Takes a place, says so and stays; times of a lease that a test can wait for.
HOLD = """
import sys, time
import fake_bucket
from data_pipelines.files import leases
from data_pipelines.files import locks
from data_pipelines.console.errors import command
leases.BEAT, leases.STALE, leases.SETTLE = 0.1, 1.5, 0.3
path, root, seconds, local = sys.argv[1:]
fake_bucket.install(root)
if local == "unseen":
    # A network file system whose locks no other host sees.
    locks.is_local = lambda path: False
    locks.fcntl.flock = lambda *_: None
@command
def main():
    with locks.exclusive(path, path.rpartition("/")[0], advice="wait"):
        print("in", flush=True)
        time.sleep(float(seconds))
main()
"""


def hold(path, root, seconds=60, local="seen"):
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(root), str(seconds), local],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'helpers'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def holding(*given, **named):
    process = hold(*given, **named)
    try:
        assert process.stdout.readline() == "in\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def take(path):
    return exclusive(path, Path(path).parent, advice="use another --workdir")


PLACES = [
    ("{root}/run/.lock", "seen"),
    ("{root}/run/.lock", "unseen"),
    ("gs://bucket/run/.lock", "seen"),
]


@pytest.mark.parametrize(("path", "local"), PLACES)
def test_the_second_is_refused_and_a_killed_one_blocks_nobody(tmp_path, path, local):
    path = path.format(root=tmp_path)
    with holding(path, tmp_path, local=local) as first:
        second = hold(path, tmp_path, local=local)
        _, said = second.communicate(timeout=60)
        assert second.returncode == 2
        assert said.count("\n") == 1
        who = f"is in use by process {first.pid} on {socket.gethostname()}, since 20"
        assert who in said
        # Not even the parent has asked for its status yet.
        first.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
        third = hold(path, tmp_path, 0, local=local)
        assert third.communicate(timeout=60) == ("in\n", "")
        assert third.returncode == 0


def test_control_nothing_else_keeps_the_second_out(tmp_path, monkeypatch):
    path = tmp_path / "run" / ".lock"
    with holding(path, tmp_path):
        with (
            pytest.raises(
                UserError, match=r"is in use by .*; wait for it, or use another"
            ),
            take(path),
        ):
            pass
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
        with take(path):
            pass


def test_a_lock_leaves_nothing_but_what_others_put_there(tmp_path):
    path = tmp_path / "a" / "b" / ".lock"
    with take(path):
        assert Owner.of(path.read_text()).pid == os.getpid()
    assert not list(tmp_path.iterdir())
    with take(path):
        path.with_name("config.json").write_text("{}")
    assert [x.name for x in path.parent.iterdir()] == ["config.json"]
    with pytest.raises(ZeroDivisionError), take(path):
        _ = 1 / 0
    with take(path):
        pass


def test_one_that_waits_gets_its_turn(tmp_path, capsys):
    path = tmp_path / "lock"
    with (
        holding(path, tmp_path, 1.5) as first,
        exclusive(path, tmp_path, advice="-", wait=True),
    ):
        first.wait(10)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"process {first.pid}" in said
    assert "waiting for it" in said


@pytest.mark.parametrize(
    "kind", ["link", "dangling", "folder", "fifo", "file above", "proc"]
)
def test_what_is_no_lock_file_is_refused_and_left_alone(tmp_path, kind):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "lock"
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "no" / "where")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "proc":
        path = Path("/proc/folder/lock")
    else:
        path = victim / "lock"
    with pytest.raises(UserError, match=r"cannot be written \(.+\); use"), take(path):
        pass
    assert victim.read_text() == "precious"


def test_a_full_disk_is_said_before_anything_is_done(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with (
        pytest.raises(UserError, match="No space left on device"),
        take(tmp_path / "run/.lock"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_has_the_lease(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with (
        pytest.raises(UserError, match="No locks available"),
        take(tmp_path / "run/.lock"),
    ):
        pass
    monkeypatch.setattr(locks, "is_local", lambda path: False)
    monkeypatch.setattr(leases, "SETTLE", 0.05)
    with take(tmp_path / "run/.lock"):
        assert (tmp_path / "run/.lock.lease").is_file()
        with pytest.raises(UserError, match="is in use"), take(tmp_path / "run/.lock"):
            pass
    assert not list(tmp_path.iterdir())


MOUNTS = """/dev/sda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/with\\040space tmpfs rw 0 0
bucket /mnt/bucket fuse.gcsfuse rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("/data/run", True),
        ("/home/run", False),
        ("/homes/run", True),
        ("/home/with space/run", True),
        ("/mnt/bucket", False),
    ],
)
def test_the_kind_of_file_system_is_that_of_the_nearest_mount(monkeypatch, path, local):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: MOUNTS)
    assert is_local(Path(path)) is local


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.1)
    monkeypatch.setattr(leases, "STALE", 1.0)
    monkeypatch.setattr(leases, "SETTLE", 0.2)
    monkeypatch.setattr(leases, "_POLL", 0.05)


@pytest.fixture
def record(tmp_path, monkeypatch, quick):
    """Where a lease's record is, in a bucket."""
    path = fake_bucket.install(tmp_path, monkeypatch.setattr) / "run" / ".lock"
    path.parent.mkdir(parents=True)
    return path


def elsewhere(**changes):
    """A process of a host that nothing can be seen of from here."""
    values = json.loads(Owner.here().record()) | {"host": "far", "machine": "another"}
    return json.dumps(values | changes)


def test_a_host_that_is_alive_is_not_taken_over(record, capsys):
    record.write_text(elsewhere(pid=77))
    # Its clock is a day behind, which changes nothing.
    stop = threading.Event()

    def beats():
        beat = 0
        while not stop.wait(0.2):
            beat += 1
            record.write_text(elsewhere(pid=77, beat=beat, started=time.time() - 86400))

    thread = threading.Thread(target=beats)
    thread.start()
    try:
        started = time.monotonic()
        with pytest.raises(UserError, match="process 77 on far"), bucket_lock():
            pass
        assert time.monotonic() - started < 1.0
    finally:
        stop.set()
        thread.join()
    assert "waiting up to" in capsys.readouterr().err


def bucket_lock():
    return exclusive("gs://bucket/run/.lock", "gs://bucket/run", advice="wait")


@pytest.mark.parametrize("text", [None, "[" * 4000, "\xff"])
def test_a_host_that_is_silent_is_taken_over(record, text, capsys):
    record.write_text(elsewhere() if text is None else text, encoding="latin-1")
    started = time.monotonic()
    with bucket_lock():
        assert time.monotonic() - started > 1.0
        assert Owner.of(record.read_text()).pid == os.getpid()
    assert not record.exists()
    assert [x.name for x in record.parent.iterdir()] == []


def test_an_old_record_is_not_waited_for(record, capsys):
    record.write_text(elsewhere(started=time.time() + 86400))
    os.utime(record, (0, time.time() - 100))
    with bucket_lock():
        pass
    assert not capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"born": "1"}])
def test_a_process_of_this_machine_that_ended_is_not_waited_for(record, changes):
    values = json.loads(Owner.here().record()) | changes
    record.write_text(json.dumps(values))
    started = time.monotonic()
    with bucket_lock():
        assert time.monotonic() - started < 1.0


def test_of_two_take_overs_at_once_the_last_to_write_has_it(record, monkeypatch):
    """The other one has read its place as free, and reads back whose it is."""
    sleep, other = time.sleep, elsewhere(pid=77)

    def meanwhile(seconds):
        if seconds == leases.SETTLE and record.read_text() != other:
            record.write_text(other)
        sleep(0.05)

    monkeypatch.setattr(time, "sleep", meanwhile)
    monkeypatch.setattr(Owner, "is_running", lambda self: True)
    with pytest.raises(UserError, match="process 77 on far"), bucket_lock():
        pass
    assert record.read_text() == other


def test_a_lease_that_was_lost_ends_the_run(record, monkeypatch):
    lost = []
    lease = Lease(epath.Path("gs://bucket/run/.lock"), Owner.here(), print, lost.append)
    lease.take()
    record.write_text(elsewhere(pid=77))
    deadline = time.monotonic() + 10
    while not lost and time.monotonic() < deadline:
        time.sleep(0.05)
    assert lost[0].pid == 77
    lease.release()
    # What is another's stays.
    assert Owner.of(record.read_text()).pid == 77


def test_a_run_that_lost_its_lease_writes_nothing_more(tmp_path):
    with holding("gs://bucket/run/.lock", tmp_path) as process:
        (tmp_path / "bucket/run/.lock").write_text(elsewhere(pid=77))
        _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert said.startswith("error: gs://bucket/run was taken over by process 77 on far")
    assert said.count("\n") == 1


def test_a_store_that_answers_with_its_own_errors_is_one_line(record, monkeypatch):
    class OpError(Exception):
        pass

    def fails(self, *_):
        raise OpError("Error executing an HTTP request:\n 401")

    monkeypatch.setattr(Lease, "_read", fails)
    with pytest.raises(UserError, match=r"cannot be written .*HTTP request: 401"):
        bucket_lock().__enter__()


@pytest.mark.slow
@pytest.mark.parametrize(("path", "local"), PLACES)
def test_of_many_at_once_one_gets_in(tmp_path, path, local):
    for number in range(5):
        place = path.format(root=tmp_path).replace("run", f"run{number}")
        started = [hold(place, tmp_path, 3, local) for _ in range(4)]
        ended = [x.communicate(timeout=60) for x in started]
        assert [out for out, _ in ended].count("in\n") == 1
        assert sorted(x.returncode for x in started) == [0, 2, 2, 2]
