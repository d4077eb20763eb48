"""Processes that decode: what they give, what ends them, what they leave behind."""

import contextlib
import gc
import io
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from faulty_decoders import CODE, write_films
from worker_pools import gone, processes, wait_until
from written_films import write

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.frames import decode_uniform
from data_pipelines.decoding.images import resize_frame
from data_pipelines.decoding.video_job import DecodeJob, decode_job, do_job
from data_pipelines.decoding.workers import Workers

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    write_films(folder)
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


def test_a_relative_path_belongs_to_the_folder_that_is_current_now(
    folder, workers, monkeypatch
):
    wanted = DecodeJob("a.mp4", "", 3, SIZE)
    assert workers.decode_one(wanted)[0].status == "missing"
    # As a notebook may do between two cells.
    monkeypatch.chdir(folder)
    assert not workers.decode_one(wanted)[0].status


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


@pytest.mark.slow
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
