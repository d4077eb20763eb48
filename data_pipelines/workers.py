"""Processes that work on videos; one that hangs or crashes is replaced."""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.video_job import UNWRITABLE, Job, Result

# Not multiprocessing: its workers would import whatever main module there is again.
COMMAND = (sys.executable, "-m", "data_pipelines.video_job")


class Workers:
    """A number of processes.

    Args:
        count: of processes; one for each core by default.
        seconds: what a file may take; a process that takes longer is killed.
        command: what a process runs.
    """

    def __init__(
        self,
        count: int | None = None,
        seconds: float = 120.0,
        command: Sequence[str] = COMMAND,
    ):
        self._count = count or os.cpu_count() or 1
        self._seconds, self._command = seconds, command
        self._own = threading.local()
        self._all: list[_Worker] = []

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """Each job with its result, as they get done.

        Raises:
            UserError: the frames of a video cannot be written.
        """
        pool = ThreadPoolExecutor(min(self._count, len(jobs) or 1))
        try:
            waiting = {pool.submit(self._work, job): job for job in jobs}
            for future in as_completed(waiting):
                result = future.result()
                if result.status == UNWRITABLE:
                    raise UserError(f"{result.message}; make room and go on")
                yield waiting[future], result
        finally:
            for worker in self._all:
                worker.kill()
            pool.shutdown(cancel_futures=True)
            for worker in self._all:
                worker.close()

    def _work(self, job: Job) -> Result:
        worker = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._own.worker = _Worker(self._command, self._seconds)
            self._all.append(worker)
        return worker.work(job)


class _Worker:
    """One process, started when it is needed."""

    def __init__(self, command: Sequence[str], seconds: float):
        self._command, self._seconds = command, seconds
        self._process: Any = None
        self._closed = False

    def work(self, job: Job) -> Result:
        """Has a job done; a second time where the process died of the first."""
        for _ in range(2):
            if self._closed:
                break
            process = self._started()
            try:
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()
            except BrokenPipeError:
                self.close()
                continue
            if not select.select([process.stdout], [], [], self._seconds)[0]:
                self.close()
                return Result(
                    "timeout", f"{job.video} took more than {self._seconds:g} seconds"
                )
            answer = process.stdout.readline()
            if answer:
                status, message, notes, total_frames = json.loads(answer)
                return Result(status, message, tuple(notes), total_frames)
            self.close()
        return Result("corrupt", f"{job.video} made its decoder crash twice")

    def _started(self) -> Any:
        if self._process is None:
            # The package may be importable only because of where we were started.
            root = str(Path(__file__).parents[1])
            path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Decoders complain there of what the result says anyway.
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path},
                # A key pressed in the terminal is for the main process alone.
                start_new_session=True,
            )
            if not self._process.stdout.readline() and not self._closed:
                raise UserError(
                    "a decoding process ends as soon as it starts; see why with "
                    f"{' '.join(self._command[:3])} < /dev/null"
                )
        return self._process

    def kill(self) -> None:
        """Ends the process for good, whatever it is doing, from any thread."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process and releases it; the next job starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
