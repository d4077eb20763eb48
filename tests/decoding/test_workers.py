"""Processes that decode: what they give, what ends them, what they leave behind."""

import contextlib
import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from films import film
from worker_pools import gone, processes, wait_until
from written_films import write

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.frames import decode_uniform
from data_pipelines.decoding.images import resize_frame
from data_pipelines.decoding.video_job import DecodeJob, decode_job, do_job
from data_pipelines.decoding.workers import Workers

ROOT = Path(__file__).parents[2]
SIZE = 16
# A decoder that does to a file what the file's name says.
CODE = """
import mmap, os, signal, sys, time
from data_pipelines.decoding import video_job
real = video_job.decode_uniform
def decode(path, count, **options):
    kind = path.stem
    if kind == "hangs":
        time.sleep(600)
    elif kind == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "takes":
        return bytearray(3 << 30)
    elif kind == "maps":
        return mmap.mmap(-1, 3 << 30)
    elif kind == "odd":
        raise ValueError("odd")
    elif kind == "prints":
        print("noise of a library", flush=True)
    return real(path, count, **options)
video_job.decode_uniform = decode
video_job.MEMORY = 1 << 30
video_job.serve()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    names = "abcdefgh", ("hangs", "crashes", "takes", "maps", "odd", "prints")
    for i, name in enumerate([*names[0], *names[1]]):
        film(folder / f"{name}.mp4", grey=10 + 10 * i)
    return folder


@pytest.fixture
def workers():
    with contextlib.closing(Workers(2, 60.0, CODE)) as workers:
        yield workers


def job(folder, name, **changes):
    return DecodeJob(str(folder / f"{name}.mp4"), "", 3, SIZE)._replace(**changes)


@pytest.mark.parametrize("in_order", [True, False])
def test_frames_are_those_of_this_process(folder, workers, in_order):
    jobs = [job(folder, name) for name in "abcdefgh"]
    found = list(workers.decode(iter(jobs), 3, in_order=in_order))
    places = [place for place, *_ in found]
    assert places == list(range(8)) if in_order else sorted(places) == list(range(8))
    for place, done, result, frames in found:
        assert done == jobs[place]
        assert (result.status, result.total_frames) == ("", do_job(done).total_frames)
        want = decode_uniform(done.video, 3).frames
        want = np.stack([resize_frame(x, SIZE) for x in want])
        np.testing.assert_array_equal(frames, want)
        assert frames.flags.writeable
    result, frames = workers.decode_one(job(folder, "a", image_size=0))
    assert (result.status, frames) == ("", None)
    assert len(processes(workers)) == 2


def test_who_waits_for_one_file_has_all_cores(folder, tmp_path):
    record = tmp_path / "threads"
    code = CODE.replace(
        "    kind = path.stem",
        f"    open({str(record)!r}, 'a').write(str(options['threads']))\n"
        "    kind = path.stem",
    )
    with contextlib.closing(Workers(3, 60.0, code)) as workers:
        one = workers.decode_one(job(folder, "a"))[1]
        list(workers.decode([job(folder, x) for x in "abcd"], 8))
        assert record.read_text() == "31111"
    np.testing.assert_array_equal(one, decode_job(job(folder, "a"))[1])


def test_what_is_no_job_comes_back_in_its_place(folder, workers):
    items = [None, job(folder, "a"), "x", job(folder, "b"), 3]
    found = list(workers.decode(items, 2, in_order=True))
    assert [x[1] for x in found] == items
    assert [x[3] is None for x in found] == [True, False, True, False, True]


def test_a_fault_is_the_file_s_alone(folder, workers):
    names = ["a", "crashes", "b", "takes", "c", "maps", "d", "odd", "e", "prints"]
    jobs = [job(folder, name) for name in names]
    found = {Path(x[1].video).stem: x[2:] for x in workers.decode(jobs, 10)}
    statuses = {name: result.status for name, (result, _) in found.items()}
    assert statuses == {
        **dict.fromkeys([*"abcde", "prints"], ""),
        **{"crashes": "corrupt", "takes": "too_large", "odd": "corrupt"},
        "maps": "too_large",
    }
    assert "crash twice (SIGSEGV)" in found["crashes"][0].message
    assert "too much memory" in found["takes"][0].message
    assert "ValueError: odd" in found["odd"][0].message
    assert all((x is None) == bool(result.status) for result, x in found.values())


def test_a_decoder_that_hangs_is_killed(folder):
    with contextlib.closing(Workers(2, 1.5, CODE)) as workers:
        workers.decode_one(job(folder, "a"))
        started = time.monotonic()
        jobs = [job(folder, name) for name in ("hangs", *"abcdefgh")]
        found = [x[2] for x in workers.decode(jobs, 20, in_order=True)]
        assert time.monotonic() - started < 30
    assert [x.status for x in found] == ["timeout"] + [""] * 8
    assert "took more than 1.5 seconds" in found[0].message


# What answers half, or too much, or nonsense.
ANSWERS = """
import sys, time
from data_pipelines.decoding.video_job import HEADER
out = sys.stdout.buffer
out.write(HEADER.pack(0, 0)); out.flush()
for line in sys.stdin:
    about = b'["", "", [], 7]'
    out.write({answer}); out.flush()
"""


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("HEADER.pack(len(about), 0)[:5]", "timeout"),
        ("HEADER.pack(len(about), 3 * 16 * 16 * 3) + about + bytes(99)", "timeout"),
        ("HEADER.pack(len(about), 1 << 31) + about", "corrupt"),
        ("HEADER.pack(1 << 30, 0) + about", "corrupt"),
        ("HEADER.pack(3, 0) + b'{]}'", "corrupt"),
        ("HEADER.pack(2, 0) + b'[]'", "corrupt"),
    ],
)
def test_half_an_answer_is_none(folder, answer, status):
    code = ANSWERS.replace("{answer}", answer)
    with contextlib.closing(Workers(1, 0.5, code)) as workers:
        result, frames = workers.decode_one(job(folder, "a"))
        assert (result.status, frames) == (status, None)
        assert processes(workers) == []


def test_a_process_that_cannot_start_says_why(folder, monkeypatch):
    with pytest.raises(UserError, match=r"cannot be started .*'nothing_of_that_name'"):
        Workers(1, 60, "import nothing_of_that_name").decode_one(job(folder, "a"))
    jobs = [job(folder, "a")] * 5
    with pytest.raises(UserError, match=r"cannot be started .it says nothing"):
        list(Workers(2, 60, "pass").decode(jobs, 5))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(UserError, match=r"cannot be started .*No such file"):
        Workers(1, 60).decode_one(job(folder, "a"))


def test_processes_are_reused_replaced_and_started_when_needed(folder, workers):
    assert processes(workers) == []
    workers.decode_one(job(folder, "a"))
    first = processes(workers)
    for _ in range(3):
        workers.decode_one(job(folder, "b"))
    assert processes(workers) == first
    os.kill(first[0], signal.SIGKILL)
    assert not workers.decode_one(job(folder, "c"))[0].status
    assert processes(workers) != first
    workers.close()
    assert all(gone(pid) for pid in first)
    assert not workers.decode_one(job(folder, "d"))[0].status


def test_a_process_keeps_the_memory_of_frames(tmp_path):
    """Pages that are mapped and zeroed again for each frame would cost 6 %."""
    path = write(tmp_path / "a.mp4", size=(240, 320))
    wanted = DecodeJob(str(path), "", 12, 224)

    def faults():
        (pid,) = processes(workers)
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])

    with contextlib.closing(Workers(1)) as workers:
        for _ in range(3):
            workers.decode_one(wanted)
        before = faults()
        for _ in range(4):
            workers.decode_one(wanted)
        assert (faults() - before) / 4 < 300


def test_a_process_without_work_ends_and_another_starts(folder):
    idle = "video_job._IDLE_SECONDS = 0.1\nvideo_job.serve()"
    code = CODE.replace("video_job.serve()", idle)
    with contextlib.closing(Workers(1, 60, code)) as workers:
        assert not workers.decode_one(job(folder, "a"))[0].status
        (pid,) = processes(workers)
        wait_until(lambda: gone(pid))
        assert not workers.decode_one(job(folder, "b"))[0].status
        assert processes(workers) != [pid]


def test_threads_share_the_processes(folder, workers):
    with ThreadPoolExecutor(8) as pool:
        jobs = [job(folder, name) for name in "abcdefgh" * 4]
        results = list(pool.map(workers.decode_one, jobs))
    for done, (result, frames) in zip(jobs, results, strict=True):
        assert not result.status
        want = decode_uniform(done.video, 3).frames[0]
        np.testing.assert_array_equal(frames[0], resize_frame(want, SIZE))
    assert len(processes(workers)) <= 2


def test_whoever_stops_listening_waits_for_nothing(folder, workers):
    threads = threading.active_count()
    for in_order in (True, False):
        started = time.monotonic()
        jobs = [job(folder, name) for name in ("a", "hangs", "hangs", "b")]
        decoded = workers.decode(jobs, 4, in_order=in_order)
        next(decoded)
        decoded.close()
        assert time.monotonic() - started < 10
    # What the hanging process would have said is not taken for the next answer.
    assert not workers.decode_one(job(folder, "b"))[0].status
    assert threading.active_count() == threads


def test_an_ending_program_waits_for_no_lock(folder, workers, monkeypatch):
    decoded = workers.decode([None], 1)
    next(decoded)
    closing = threading.Thread(target=decoded.close, daemon=True)
    with workers._free, monkeypatch.context() as patch:
        patch.setattr(sys, "is_finalizing", lambda: True)
        closing.start()
        closing.join(5)
        assert not closing.is_alive()


@pytest.mark.parametrize("way", ["decode", "decode_one"])
def test_a_thread_that_an_ending_program_stops_is_silent(
    folder, workers, monkeypatch, way
):
    def work():
        if way == "decode":
            list(workers.decode([job(folder, "hangs")] * 2, 2))
        else:
            workers.decode_one(job(folder, "hangs"))

    # What a program prints without pytest.
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wait_until(lambda: processes(workers))
    for stopped in list(workers._calls):
        stopped.set()
    thread.join(10)
    said = sys.stderr.getvalue()
    assert (thread.is_alive(), said) == (False, "")


def test_nothing_is_left_behind(folder):
    def rounds(count):
        for _ in range(count):
            workers = Workers(2, 60, CODE)
            list(workers.decode([job(folder, x) for x in "abc"], 3))
            workers.decode_one(job(folder, "crashes"))
            pids.extend(processes(workers))
            del workers
            gc.collect()

    pids = []
    rounds(1)
    descriptors = len(os.listdir("/proc/self/fd"))
    rounds(2)
    assert pids
    assert all(gone(pid) for pid in pids)
    assert len(os.listdir("/proc/self/fd")) == descriptors


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


def test_files_that_are_none_have_a_status(folder, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "large.mp4").write_bytes(bytes(100))
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    of = {
        str(tmp_path / "pipe.mp4"): ("unreadable", "is not a regular file"),
        str(tmp_path / "large.mp4"): ("too_large", "100 bytes, more than 99"),
        str(tmp_path / "loop.mp4"): ("missing", "symbolic links"),
        str(tmp_path / "none.mp4"): ("missing", "does not exist"),
        str(tmp_path / "large.mp4" / "x.mp4"): ("missing", "does not exist"),
        str(tmp_path): ("unreadable", "is a folder"),
        "a\0.mp4": ("missing", "cannot be the name of a file"),
        "\ud800.mp4": ("missing", "cannot be the name of a file"),
        str(tmp_path / ("x" * 300)): ("missing", "File name too long"),
    }
    for path, (status, says) in of.items():
        result = do_job(DecodeJob(path, "", 3, SIZE, 99))
        assert (result.status, says in result.message) == (status, True), result
        assert len(result.message) < 500
