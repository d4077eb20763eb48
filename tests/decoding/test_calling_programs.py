"""Worker processes of programs that are called, forked, left or interrupted."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_decoders import CODE, write_films
from worker_pools import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    write_films(folder)
    return folder


BEGIN = f"import sys; sys.path.append({str(ROOT)!r})\n"
MAIN = """
from data_pipelines.decoding.workers import DecodeJob, Workers, shared_workers
jobs = [DecodeJob({path!r}, "", 3, 16) for _ in range(6)]
print(sum(x[3] is not None for x in shared_workers().decode(jobs, 6)), flush=True)
"""
SPAWN = """
def work(path):
    from data_pipelines.decoding.workers import DecodeJob, shared_workers
    return shared_workers().decode_one(DecodeJob(path, "", 3, 16))[0].status == ""
if __name__ == "__main__":
    import multiprocessing
    with multiprocessing.get_context({kind!r}).Pool(2) as pool:
        print(sum(pool.map(work, [{path!r}] * 6)))
"""


FORK = """
import gc, os
workers = shared_workers()
assert shared_workers() is workers
pids = [x._process and x._process.pid for x in workers._workers]
# Another thread may be asking for a process at this moment.
locks = [x._process._waitpid_lock for x in workers._workers if x._process]
for lock in locks:
    lock.acquire()
child = os.fork()
if child:
    for lock in locks:
        lock.release()
else:
    assert shared_workers() is not workers
    del workers
    gc.collect()
    assert not shared_workers().decode_one(jobs[0])[0].status
    raise SystemExit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
# The child, and its end, left its parent's processes alone.
assert not workers.decode_one(jobs[0])[0].status
assert pids == [x._process and x._process.pid for x in workers._workers]
assert shared_workers() is workers
"""


def python(*arguments, cwd, **options):
    # Importable because of `sys.path` alone.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments],
        **{"cwd": cwd, "env": env, "timeout": 60, "check": False, **options},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("way", ["-c", "-", "interactive", "spawn", "fork", "module"])
def test_it_works_wherever_it_is_called_from(folder, tmp_path, way):
    path = str(folder / "a.mp4")
    # What lies where the program was started is not what a process imports.
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong file')")
    source = BEGIN + MAIN.format(path=path)
    if way == "-c":
        done = python("-P", "-c", source, cwd=tmp_path)
    elif way == "-":
        done = python("-P", "-", input=source, cwd=tmp_path)
    elif way == "interactive":
        done = python("-P", "-i", "-q", input=source, cwd=tmp_path)
    else:
        folder = tmp_path / "program"
        folder.mkdir()
        if way != "module":
            source = BEGIN + SPAWN.format(path=path, kind=way)
        (folder / "program.py").write_text(source)
        done = python(str(folder / "program.py"), cwd=tmp_path)
    assert done.stdout.strip() == "6", done.stderr
    assert "Traceback" not in done.stderr


def test_a_fork_has_processes_of_its_own(folder, tmp_path):
    source = BEGIN + MAIN.format(path=str(folder / "a.mp4")) + FORK
    done = python("-c", source, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "6\n"


# A program that leaves in the middle: of a call, of a generator that it still holds.
LEAVING = {
    "an unfinished generator": "found = workers.decode(jobs, 6); print(next(found)[0])",
    "an exception": "for x in workers.decode(jobs, 6): print(0); raise SystemExit",
    "a thread": "import threading; threading.Thread(target=lambda: list("
    "workers.decode(jobs, 6)), daemon=True).start(); import time; time.sleep(1); "
    "print(0)",
    "os._exit": "found = workers.decode(jobs, 6); print(next(found)[0], flush=True); "
    "import os; os._exit(0)",
}


@pytest.mark.parametrize("way", LEAVING)
def test_a_program_ends_when_it_ends(folder, tmp_path, way):
    mark = f"mark-{os.getpid()}-{abs(hash(way))}"
    code = CODE + f"# {mark}"
    source = BEGIN + (
        "from data_pipelines.decoding.workers import DecodeJob, Workers\n"
        f"workers = Workers(2, 600, {code!r})\n"
        f"names = ['a', 'hangs', 'hangs', 'b']\n"
        f"place = {str(folder)!r}\n"
        f"jobs = [DecodeJob(f'{{place}}/{{x}}.mp4', '', 3, 16) for x in names]\n"
        f"{LEAVING[way]}\n"
    )
    started = time.monotonic()
    done = python("-c", source, cwd=tmp_path)
    assert done.stdout == "0\n", done.stderr
    assert done.stderr == ""
    assert time.monotonic() - started < 30
    wait_until(lambda: not running(mark))


def running(mark):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                found.append(pid)
    return found


@pytest.mark.parametrize("call", ["list(workers.decode(jobs, 6))", "decode_one"])
def test_a_key_ends_a_call_at_once(folder, tmp_path, call):
    mark = f"key-{os.getpid()}-{len(call)}"
    code = CODE + f"# {mark}"
    if call == "decode_one":
        call = "workers.decode_one(jobs[0])"
    source = BEGIN + (
        "from data_pipelines.decoding.workers import DecodeJob, Workers\n"
        f"workers = Workers(2, 600, {code!r})\n"
        f"jobs = [DecodeJob({str(folder / 'hangs.mp4')!r}, '', 3, 16)] * 4\n"
        f"print('ready', flush=True)\ntry: {call}\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)\n"
        "print([x._process for x in workers._workers])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: running(mark) and len(running(mark)) > 1)
        time.sleep(1)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert time.monotonic() - started < 10
    assert out == "ready\ninterrupted\n[None, None]\n", err
    assert not running(mark)
