"""A pool of worker processes that decode videos; one that hangs or dies is replaced.

    for place, job, result, frames in shared_workers().decode(jobs, ahead=32):
        ...

Frames come back through the process's pipe as raw bytes, which takes a millisecond for
twelve of 224 x 224 and, unlike shared memory, leaves nothing behind after a crash.
"""

import contextlib
import itertools
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_pipelines.console.errors import UserError
from data_pipelines.console.surroundings import usable_cores
from data_pipelines.decoding.cuts import check_cut
from data_pipelines.decoding.moments import Moment, VideoEnd, check_seconds
from data_pipelines.decoding.video_job import (
    SECONDS,
    UNWRITABLE,
    DecodeJob,
    MomentsJob,
    Result,
)
from data_pipelines.decoding.worker_process import (
    CODE,
    LOOK_SECONDS,
    WorkerProcess,
)

Frames = UInt8[np.ndarray, "F S S 3"]
# A job's answers, and whether each is its last.
_Answers = Iterator[tuple[Any, bool]]
# More threads of one decoder gain little and hold a frame each.
_MOST_THREADS = 4


class Workers:
    """A pool of processes, each started when there is work for it.

    The pool is reused from call to call, may be used from any thread, and ends with
    this object or with the program. A decoder has one thread where there are as many
    files as processes, and several where a few files are waited for.

    Args:
        count: number of processes; by default one per core.
        seconds: time limit per file, or per moment; a process that takes longer is
            killed.
        code: what a process runs.
    """

    def __init__(
        self, count: int | None = None, seconds: float = SECONDS, code: str = CODE
    ):
        self.count = count or usable_cores()
        self._workers = [WorkerProcess(code, seconds) for _ in range(self.count)]
        self._idle = list(self._workers)
        self._free = threading.Condition()
        # One event for each call in progress; set to end it.
        self._calls: set[threading.Event] = set()
        weakref.finalize(self, _end, self._workers, self._calls, os.getpid())

    def run(self, jobs: Iterable[DecodeJob]) -> Iterator[tuple[DecodeJob, Result]]:
        """Yields each job with its result as they complete; then ends the processes.

        Raises:
            UserError: the frames of a video cannot be written.
        """
        try:
            with contextlib.closing(self.decode(jobs, 4 * self.count)) as decoded:
                for _, job, result, _ in decoded:
                    if result.status == UNWRITABLE:
                        raise UserError(
                            f"{result.message}; make room and run the command again"
                        )
                    yield job, result
        finally:
            self.close()

    def decode(
        self, jobs: Iterable[Any], ahead: int, *, in_order: bool = False
    ) -> Generator[tuple[int, Any, Result, Frames | None], None, None]:
        """Runs jobs ahead of the consumer of their results.

        Args:
            jobs: read lazily, in the caller's thread. An item that is not a
                `DecodeJob` is passed through in its place.
            ahead: most jobs that are in progress or wait to be consumed.
            in_order: whether results come in the order of the jobs instead of the
                order of completion.

        Yields:
            The job's position from 0, the job, its result, and its frames if it asks
            for them and succeeds.

        Raises:
            UserError: no process can be started.
        """

        def work(job: Any, stopped: threading.Event, share: int) -> _Answers:
            with self._worker(stopped, share) as (worker, threads):
                for outcome in worker.answers(job, stopped, threads):
                    yield outcome, True

        each = self._each(jobs, ahead, work, in_order=in_order)
        with contextlib.closing(each):
            for place, job, outcome in each:
                yield place, job, *outcome

    def decode_moments(
        self, jobs: Iterable[MomentsJob], ahead: int
    ) -> Generator[tuple[int, MomentsJob, Moment | VideoEnd], None, None]:
        """Decodes videos moment by moment, several at once.

        A file that nobody can decode further, because its decoder hangs or dies, ends
        with its status like any other; the moments before that have come.

        Args:
            jobs: read lazily, in the caller's thread.
            ahead: most moments that wait to be consumed, of all files together, and
                most files that are in progress. Each process holds two moments more.

        Yields:
            The job's position from 0, the job, and a moment or the end of its video.
            Those of one video come in order, those of others between them.

        Raises:
            UserError: no process can be started, or videos cannot be cut so.
            ValueError: a job's `seconds` is not a positive number.
        """
        room = threading.Semaphore(max(1, ahead))

        def work(job: Any, stopped: threading.Event, share: int) -> _Answers:
            with self._worker(stopped, share) as (worker, threads):
                answers = worker.answers(job, stopped, threads)
                with contextlib.closing(answers):
                    while True:
                        # The process waits too, as soon as its pipe is full.
                        while not room.acquire(timeout=LOOK_SECONDS):
                            if stopped.is_set():
                                raise SystemExit
                        answer = next(answers)
                        if isinstance(answer, VideoEnd):
                            room.release()
                            break
                        yield answer, False
            yield answer, True

        def checked() -> Iterator[MomentsJob]:
            for job in jobs:
                check_seconds(job.seconds)
                check_cut(job.cut)
                yield job

        each = self._each(checked(), ahead, work)
        with contextlib.closing(each):
            for place, job, answer in each:
                yield place, job, answer
                if isinstance(answer, Moment):
                    # Not before: the consumer holds it until it asks for the next.
                    room.release()

    def _each(
        self,
        jobs: Iterable[Any],
        ahead: int,
        work: Callable[[Any, threading.Event, int], _Answers],
        *,
        in_order: bool = False,
    ) -> Generator[tuple[int, Any, Any], None, None]:
        """Runs `work` on jobs in threads and yields their answers as they come.

        Args:
            jobs: read lazily, in the caller's thread. Others than of videos are passed
                through with an empty result.
            ahead: most jobs that are in progress or wait to be consumed.
            work: takes a job, what stops it, and how many cores are its own; yields
                answers and whether they are its last.
            in_order: whether jobs, of one answer each, come in their order.
        """
        stopped = threading.Event()
        todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()

        # Each thread drives one process; `None` ends it.
        def serve() -> None:
            while (item := todo.get()) is not None:
                try:
                    for answer in work(item[1], stopped, item[2]):
                        done.put((*item[:2], *answer))
                # Raised where the answers are consumed, not in a worker thread.
                except BaseException as error:
                    done.put((*item[:2], error, True))

        waiting = enumerate(jobs)
        threads: list[threading.Thread] = []
        held: dict[int, Any] = {}
        taken = under_way = 0
        self._calls.add(stopped)
        try:
            while True:
                # Submit jobs until `ahead` are in progress or waiting.
                new = list(itertools.islice(waiting, max(1, ahead) - under_way))
                under_way += len(new)
                # Fewer than that are all that come.
                share = self.count // under_way if 0 < under_way < ahead else 1
                for place, job in new:
                    if not isinstance(job, DecodeJob | MomentsJob):
                        done.put((place, job, (Result(), None), True))
                        continue
                    todo.put((place, job, share))
                    if len(threads) < self.count:
                        # A daemon thread does not delay the end of the program.
                        threads.append(threading.Thread(target=serve, daemon=True))
                        threads[-1].start()
                if not under_way:
                    return
                # Wait for the answer that is to be yielded next.
                while not held or (in_order and taken not in held):
                    place, *rest = done.get()
                    held[place] = rest
                place = taken if in_order else next(iter(held))
                job, answer, is_last = held.pop(place)
                if isinstance(answer, BaseException):
                    raise answer
                if is_last:
                    taken, under_way = taken + 1, under_way - 1
                yield place, job, answer
        finally:
            # An ending program has stopped its daemon threads at arbitrary points,
            # perhaps while they held a lock.
            if not sys.is_finalizing():
                self._stop(stopped)
                for _ in threads:
                    todo.put(None)
                for thread in threads:
                    thread.join()

    def decode_one(self, job: DecodeJob) -> tuple[Result, Frames | None]:
        """Runs one job; see `decode`."""
        stopped = threading.Event()
        self._calls.add(stopped)
        try:
            with self._worker(stopped, self.count) as (worker, threads):
                (outcome,) = worker.answers(job, stopped, threads)
                return outcome
        finally:
            self._calls.discard(stopped)

    def close(self) -> None:
        """Ends the idle processes; the next job starts another."""
        with self._free:
            for worker in self._idle:
                worker.close()

    def _stop(self, stopped: threading.Event) -> None:
        self._calls.discard(stopped)
        stopped.set()
        with self._free:
            self._free.notify_all()

    @contextlib.contextmanager
    def _worker(
        self, stopped: threading.Event, share: int
    ) -> Iterator[tuple[WorkerProcess, int]]:
        """Lends a process, as soon as one is free.

        Args:
            stopped: set when it is no longer wanted.
            share: cores that no other job of the call needs.

        Yields:
            The process, and how many threads its decoder may have.
        """
        worker = None
        try:
            with self._free:
                while not self._idle:
                    if stopped.is_set():
                        raise SystemExit
                    self._free.wait()
                # Prefer a process that is already running.
                self._idle.sort(key=WorkerProcess.is_started)
                # Other calls need the cores of the processes that they have.
                threads = max(1, min(share, len(self._idle), _MOST_THREADS))
                worker = self._idle.pop()
            yield worker, threads
        finally:
            if worker is not None:
                with self._free:
                    self._idle.append(worker)
                    self._free.notify()


def _end(
    workers: Sequence[WorkerProcess], calls: Iterable[threading.Event], owner: int
) -> None:
    # A fork has a copy of this object, but the processes are its parent's.
    if os.getpid() == owner:
        for stopped in list(calls):
            stopped.set()
        for worker in workers:
            worker.close()


_shared: Workers | None = None
_sharing = threading.Lock()


def shared_workers() -> Workers:
    """The pool that the entire program shares, with the default limits.

    After a fork each of the two programs has its own.
    """
    global _shared
    with _sharing:
        if _shared is None:
            _shared = Workers()
        return _shared


def _forget() -> None:
    global _shared, _sharing
    # A thread that held the lock does not exist in the fork.
    _shared, _sharing = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
