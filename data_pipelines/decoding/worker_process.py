"""One worker process that decodes videos: started, asked, killed, replaced."""

import contextlib
import fcntl
import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.video_job import HEADER, DecodeJob, MomentsJob

# What a worker process runs. Not `multiprocessing`, whose workers import the main
# module again, which a notebook or piped code does not have.
CODE = "from data_pipelines.decoding.video_job import serve; serve()"
# A worker imports from the same paths as its parent, set before any import that could
# pick up a module from the current folder.
_PATHS = "import sys; sys.path[:] = sys.argv[1:]\n"
_ENVIRONMENT = {
    # Threads of numerical libraries would only take address space from the decoder, as
    # would a heap for each of its own.
    **dict.fromkeys(
        (
            *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
            "OPENCV_FOR_THREADS_NUM",
        ),
        "1",
    ),
    "MALLOC_ARENA_MAX": "1",
    # Frames come and go. Returned to the system in between, their pages are mapped and
    # zeroed again for each, which is 6 % of decoding.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
_START_SECONDS = 120.0
_END_SECONDS = 1.0
# A job's answers may take so many times the limit of one.
_MOST_LIMITS = 100
# Most bytes of an answer's JSON.
_MOST_JSON = 1 << 20
# Seconds between checks, while waiting, whether the answer is still wanted.
LOOK_SECONDS = 0.1
_PIPE_BYTES = 1 << 20


class WorkerProcess:
    """One process, started when it is needed; used by one thread at a time."""

    def __init__(self, code: str, seconds: float):
        self._code, self._seconds = code, seconds
        self._process: Any = None
        # The folder that it was started in, which relative paths belong to.
        self._folder = ""

    def is_started(self) -> bool:
        """Whether a process is running, so that a job starts at once."""
        return self._process is not None

    def answers(
        self, job: DecodeJob | MomentsJob, stopped: threading.Event, threads: int = 1
    ) -> Generator[Any, None, None]:
        """Runs a job and yields its answers; see the job's `read`.

        If the process dies, the job is retried once; answers that were given already
        are left out. The time limit holds for each answer; waiting for the consumer
        does not count.

        Args:
            job: what to do.
            stopped: set when the answers are no longer wanted.
            threads: of the decoder.

        Raises:
            SystemExit: `stopped` was set meanwhile. A thread that still waits is one of
                a program that is ending; this error alone ends a thread silently.
            UserError: no process can be started.
        """
        status, count, last, spent = 0, 0, None, 0.0
        most = _MOST_LIMITS * self._seconds
        for _ in range(2):
            process = self._started(stopped)
            try:
                line = json.dumps([type(job).__name__, threads, *job])
                process.stdin.write(line.encode() + b"\n")
                place, is_last = 0, False
                while not is_last:
                    begun = time.monotonic()
                    limit = min(self._seconds, most - spent)
                    answer, is_last = self._answer(job, begun + limit, stopped)
                    spent += time.monotonic() - begun
                    # Still at work.
                    if answer is None:
                        continue
                    place += 1
                    if place > count and not is_last:
                        count, last = place, answer
                        yield answer
            except (BrokenPipeError, EOFError):
                # Its exit status is known only a moment after its pipes have closed.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_END_SECONDS)
                status = self.close()
            except TimeoutError:
                self.close()
                seconds = self._seconds if spent + self._seconds <= most else most
                message = f"{job.video} took more than {seconds:g} seconds"
                yield job.failed("timeout", message, count, last)
                return
            # A late answer must not be taken for the next job's.
            except BaseException:
                self.close()
                raise
            else:
                yield answer
                return
        how = f" ({signal.Signals(-status).name})" if status < 0 else ""
        message = f"{job.video} made its decoder crash twice{how}"
        yield job.failed("corrupt", message, count, last)

    def _answer(
        self, job: DecodeJob | MomentsJob, deadline: float, stopped: threading.Event
    ) -> tuple[Any, bool]:
        """The next answer, None if the process is still at work; is it the last?"""
        header = bytearray(HEADER.size)
        self._read(header, deadline, stopped)
        about_size, frames_size = HEADER.unpack(header)
        if not about_size:
            return None, False
        frames = None
        # A decoder that has corrupted its process's memory may answer anything.
        if about_size > _MOST_JSON:
            raise EOFError
        about = bytearray(about_size)
        self._read(about, deadline, stopped)
        if frames_size:
            shape = (job.num_frames, job.image_size, job.image_size, 3)
            if math.prod(shape) != frames_size:
                raise EOFError
            frames = np.empty(shape, np.uint8)
            self._read(frames.reshape(-1).data, deadline, stopped)
        try:
            return job.read(json.loads(about), frames)
        except (ValueError, TypeError):
            raise EOFError from None

    def _read(self, buffer: Any, deadline: float, stopped: threading.Event) -> None:
        """Fills a buffer from the process.

        Raises:
            EOFError: the process has ended.
            TimeoutError: it takes too long.
            SystemExit: the answer is no longer wanted.
        """
        left = memoryview(buffer)
        output = self._process.stdout.fileno()
        # Not `select`, which fails for descriptors from 1024 on.
        ready = select.poll()
        ready.register(output, select.POLLIN)
        while left:
            seconds = deadline - time.monotonic()
            if stopped.is_set():
                raise SystemExit
            if seconds <= 0:
                raise TimeoutError
            if ready.poll(1000 * min(seconds, LOOK_SECONDS)):
                count = os.readv(output, [left])
                if not count:
                    raise EOFError
                left = left[count:]

    def _started(self, stopped: threading.Event) -> Any:
        if stopped.is_set():
            raise SystemExit
        folder = _current_folder()
        # It may have ended because it was idle, and a notebook may have gone elsewhere.
        if self._process is not None and (
            self._process.poll() is not None or folder != self._folder
        ):
            self.close()
        if self._process is None:
            try:
                self._folder = folder
                self._process = subprocess.Popen(
                    self._command(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    # Decoders print there what the result says anyway.
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    env=os.environ | _ENVIRONMENT,
                    # Ctrl-C in the terminal must reach the main process alone.
                    start_new_session=True,
                )
                with contextlib.suppress(OSError, AttributeError):
                    fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                deadline = time.monotonic() + _START_SECONDS
                self._read(bytearray(HEADER.size), deadline, stopped)
            except (EOFError, TimeoutError, OSError) as error:
                self.close()
                raise UserError(
                    f"a decoding process cannot be started ({self._why(error)})"
                ) from None
            except BaseException:
                self.close()
                raise
        return self._process

    def _command(self) -> list[str]:
        return [sys.executable, "-c", _PATHS + self._code, *import_paths()]

    def _why(self, error: BaseException) -> str:
        """The error output of a process that ends as soon as it starts."""
        if not isinstance(error, EOFError):
            return " ".join(str(error).split()) or "it takes too long"
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            said = subprocess.run(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=os.environ | _ENVIRONMENT,
                timeout=_START_SECONDS,
                check=False,
            ).stderr.decode(errors="replace")
            return (said.strip() or "it says nothing").splitlines()[-1][:400]
        return "it ends at once"

    def close(self) -> int:
        """Ends the process and releases it; the next job starts another.

        Returns:
            Its exit status.
        """
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        process.wait()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        return process.returncode


def _current_folder() -> str:
    """The current folder; empty if it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def import_paths() -> list[str]:
    """The import paths of this process, made absolute for another one."""
    paths = []
    for path in sys.path:
        # An empty path is the current folder, which may be gone by now.
        with contextlib.suppress(OSError, TypeError):
            paths.append(os.path.abspath(path))
    root = str(Path(__file__).parents[2])
    return paths if root in paths else [root, *paths]
