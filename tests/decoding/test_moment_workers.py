"""Moments from worker processes: in order, within limits, no more than are wanted."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from worker_pools import gone, processes, wait_until
from written_films import write

from benchmarks.long_film import repeat
from data_pipelines.decoding.moments import Moment, VideoEnd, decode_moments
from data_pipelines.decoding.video_job import MomentsJob
from data_pipelines.decoding.workers import Workers

SIZE = 16
# A decoder that does after some moments what the file's name says.
CODE = """
import os, signal, time
from data_pipelines.decoding import video_job
real = video_job.decode_moments
def decode(path, *rest, progress, **options):
    with open(path + ".threads", "a") as file:
        file.write(str(options["threads"]))
    kind, name = os.path.basename(path).split(".")[0], path + ".tries"
    for place, answer in enumerate(real(path, *rest, progress=progress, **options)):
        with open(path + ".places", "a") as file:
            file.write(f"{place}\\n")
        if place == 3:
            with open(name, "a") as file:
                file.write("x")
            if kind == "hangs":
                time.sleep(600)
            elif kind == "crashes" or kind == "once" and os.path.getsize(name) == 1:
                os.kill(os.getpid(), signal.SIGSEGV)
            elif kind == "works":
                for _ in range(15):
                    time.sleep(0.2)
                    progress()
            elif kind == "forever":
                while True:
                    time.sleep(0.05)
                    progress()
            elif kind == "odd":
                raise ValueError("odd")
        yield answer
video_job.decode_moments = decode
video_job.serve()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    content = write(folder / "a.mp4", count=250, size=(32, 32)).read_bytes()
    for name in ("b", "c", "hangs", "crashes", "once", "works", "forever", "odd"):
        (folder / f"{name}.mp4").write_bytes(content)
    write(folder / "short.mp4", count=20, size=(32, 32))
    return folder


@pytest.fixture
def workers():
    with contextlib.closing(Workers(2, 60.0, CODE)) as workers:
        yield workers


def job(folder, name, **changes):
    job = MomentsJob(str(folder / f"{name}.mp4"), 3, SIZE, 1.0)
    return job._replace(**changes)


def by_name(found):
    """The moments of each file, and its end, which is the last to come."""
    moments, ends = {}, {}
    for place, done, answer in found:
        name = Path(done.video).stem
        assert name not in ends
        if isinstance(answer, VideoEnd):
            ends[name] = answer
        else:
            moments.setdefault((place, name), []).append(answer)
    return {name: found for (_, name), found in moments.items()}, ends


def assert_equal(moments, wanted):
    assert len(moments) == len(wanted)
    for moment, want in zip(moments, wanted, strict=True):
        assert moment[:2] == want[:2]
        np.testing.assert_array_equal(moment.frames, want.frames)


def test_moments_are_those_of_this_process(folder, workers):
    names = ["a", "short", "b", "c"]
    jobs = [job(folder, name) for name in names]
    jobs.append(job(folder, "none"))
    found = list(workers.decode_moments(iter(jobs), 5))
    assert all(jobs[place] is done for place, done, _ in found)
    moments, ends = by_name(found)
    for name in names:
        *wanted, end = decode_moments(folder / f"{name}.mp4", 3, 1.0, SIZE)
        assert_equal(moments[name], wanted)
        assert ends[name] == end
        assert not end.status
    assert (ends["none"].status, ends["none"].moments) == ("missing", 0)
    assert len(processes(workers)) == 2


def test_files_are_decoded_side_by_side(folder, workers):
    jobs = [job(folder, "works"), job(folder, "a"), job(folder, "b")]
    found = workers.decode_moments(jobs, 60)
    ends = [place for place, _, answer in found if isinstance(answer, VideoEnd)]
    assert ends[-1] == 0


def test_a_large_file_is_not_opened(folder, workers):
    jobs = [job(folder, "a", max_bytes=99)]
    ((_, _, end),) = workers.decode_moments(jobs, 4)
    assert (end.status, "more than 99" in end.message) == ("too_large", True)


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("crashes", "corrupt", "crash twice (SIGSEGV)"),
        ("hangs", "timeout", "took more than 1.5 seconds"),
        ("forever", "timeout", "took more than 3 seconds"),
        ("odd", "corrupt", "made its decoder crash twice"),
    ],
)
def test_a_decoder_that_dies_leaves_the_moments_so_far(
    folder, name, status, message, monkeypatch
):
    monkeypatch.setattr("data_pipelines.decoding.worker_process._MOST_LIMITS", 2)
    with contextlib.closing(Workers(2, 1.5, CODE)) as workers:
        found = workers.decode_moments([job(folder, x) for x in (name, "a")], 40)
        moments, ends = by_name(found)
    assert (ends[name].status, message in ends[name].message) == (status, True)
    *wanted, _ = decode_moments(folder / "a.mp4", 3, 1.0, SIZE)
    assert_equal(moments[name], wanted[:3])
    assert (ends[name].moments, ends[name].duration) == (3, 3.0)
    assert ends["a"].moments == 10


def test_a_decoder_that_dies_once_does_so_unseen(folder, workers):
    moments, ends = by_name(workers.decode_moments([job(folder, "once")], 4))
    *wanted, end = decode_moments(folder / "a.mp4", 3, 1.0, SIZE)
    assert_equal(moments["once"], wanted)
    assert ends["once"] == end
    assert (folder / "once.mp4.tries").read_text() == "xx"


def test_a_killed_process_is_replaced(folder, workers):
    # One moment is more than the pipe holds, so that there is work left for another.
    size = 640
    found = workers.decode_moments([job(folder, "b", image_size=size)], 1)
    first = [next(found) for _ in range(2)]
    (pid,) = processes(workers)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gone(pid))
    moments, ends = by_name([*first, *found])
    *wanted, end = decode_moments(folder / "b.mp4", 3, 1.0, size)
    assert_equal(moments["b"], wanted)
    assert ends["b"] == end
    assert processes(workers) != [pid]


def test_the_limit_is_that_of_no_progress(folder):
    """Three seconds without a moment, but never one without a sign of life."""
    with contextlib.closing(Workers(1, 1.0, CODE)) as workers:
        _, ends = by_name(workers.decode_moments([job(folder, "works")], 4))
    assert not ends["works"].status


def test_waiting_for_the_consumer_is_not_slowness(folder):
    with contextlib.closing(Workers(1, 1.0, CODE)) as workers:
        found = workers.decode_moments([job(folder, "c")], 1)
        next(found)
        time.sleep(1.5)
        *_, (_, _, end) = found
    assert (end.status, end.moments) == ("", 10)


@pytest.mark.parametrize("ahead", [1, 6])
def test_a_consumer_holds_the_decoders_up(folder, tmp_path, ahead):
    """Moments of which the pipe holds less than one."""
    path = tmp_path / "film.mp4"
    path.write_bytes((folder / "a.mp4").read_bytes())
    large = MomentsJob(str(path), 12, 224, 0.4)
    with contextlib.closing(Workers(1, 60.0, CODE)) as workers:
        found = workers.decode_moments([large], ahead)
        next(found)
        places = Path(f"{path}.places")
        # As many as are wanted, one in the pipe, one that is written to it.
        wait_until(lambda: len(places.read_text().split()) >= ahead)
        time.sleep(1)
        assert len(places.read_text().split()) <= ahead + 2
        *_, (_, _, end) = found
        assert end.moments == 25


def test_few_files_have_the_cores_of_all(folder):
    """One thread each where there are as many files as processes."""
    for names, threads in ((["c"], "4"), (["c", "b"], "2"), ([*"cccc"], "1111")):
        for path in folder.glob("*.threads"):
            path.unlink()
        with contextlib.closing(Workers(4, 60.0, CODE)) as workers:
            list(workers.decode_moments([job(folder, x) for x in names], 8))
            assert (folder / "c.mp4.threads").read_text() == threads
            # As many may come as are waited for: who knows how many more?
            (folder / "c.mp4.threads").unlink()
            list(workers.decode_moments([job(folder, "c")], 1))
            assert (folder / "c.mp4.threads").read_text() == "1"


def test_whoever_stops_listening_waits_for_nothing(folder, workers):
    threads = threading.active_count()
    started = time.monotonic()
    for ahead in (1, 4):
        jobs = [job(folder, name) for name in ("a", "hangs", "hangs", "b")]
        found = workers.decode_moments(jobs, ahead)
        next(found)
        found.close()
    assert time.monotonic() - started < 10
    assert threading.active_count() == threads
    # What was on its way is not taken for an answer to the next.
    moments, _ = by_name(workers.decode_moments([job(folder, "short")], 4))
    assert_equal(
        moments["short"], list(decode_moments(folder / "short.mp4", 3, 1.0, SIZE))[:-1]
    )


def test_a_length_that_is_none_is_the_callers_error(folder, workers):
    with pytest.raises(ValueError, match="not a positive number"):
        list(workers.decode_moments([job(folder, "a", seconds=0.0)], 4))


def peak(pid):
    """The most memory that a process has held at once, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@pytest.mark.slow
def test_a_long_film_takes_no_more_memory_than_a_short_one(tmp_path):
    """20 minutes: all its moments at once would be 260 MiB."""
    clip = write(tmp_path / "clip.mp4", count=250, size=(64, 64), bframes=0)
    film = repeat(clip, tmp_path / "film.mp4", 120)
    peaks = {}
    for path, count in ((clip, 2), (film, 150)):
        with contextlib.closing(Workers(1)) as workers:
            found = workers.decode_moments([MomentsJob(str(path), 12, 224, 8.0)], 2)
            moments = 0
            for _, _, answer in found:
                moments += isinstance(answer, Moment)
                (pid,) = processes(workers)
                peaks[path] = peak(pid)
            assert (answer.status, answer.moments, moments) == ("", moments, moments)
            assert abs(moments - count) <= 1
    assert peaks[film] - peaks[clip] < 25
