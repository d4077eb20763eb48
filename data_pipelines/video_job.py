"""The work on one video, and the process that does it for others.

The process reads jobs from its standard input and answers on its standard output, a
line of JSON each; a decoder that crashes or hangs takes only this process with it.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from data_pipelines.frames import (
    VideoError,
    decode_uniform,
    encode_jpeg,
    probe,
    resize_and_crop,
)
from data_pipelines.frames_file import write_frames

# A message longer than this tells nobody more, and must fit into a pipe.
_MESSAGE = 400
# No fault of the video, and so none of `frames.STATUSES`.
UNWRITABLE = "unwritable"
_WATCH_SECONDS = 2.0


class Job(NamedTuple):
    """A video and what is to be done with it.

    Attributes:
        video: the file.
        frames: the file that its frames go to; empty to keep none.
        num_frames: F; 0 to read only what the file says of itself.
        image_size: pixels.
        max_bytes: a larger file is not opened.
    """

    video: str
    frames: str
    num_frames: int
    image_size: int
    max_bytes: int


class Result(NamedTuple):
    """What became of a job.

    Attributes:
        status: empty where all is well, else one of `frames.STATUSES`.
        message: what is wrong, one line.
        notes: statuses that did no harm.
        total_frames: n, of the file; 0 where it is not known.
    """

    status: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()
    total_frames: int = 0


def do_job(job: Job) -> Result:
    """Does one job in this process."""
    path = Path(job.video)
    try:
        size = path.stat().st_size
        if size > job.max_bytes:
            return Result("too_large", f"{path} has {size:,} bytes")
        if not job.num_frames:
            return Result(total_frames=probe(path))
        decoded = decode_uniform(path, job.num_frames)
        if job.frames:
            encoded = [
                encode_jpeg(resize_and_crop(frame, job.image_size))
                for frame in decoded.frames
            ]
            try:
                write_frames(Path(job.frames), encoded, decoded.notes)
            except OSError as error:
                reason = f"{job.frames} cannot be written ({error.strerror})"
                return _failure(UNWRITABLE, reason)
        return Result(notes=decoded.notes, total_frames=decoded.total_frames)
    except VideoError as error:
        return _failure(error.status, str(error))
    except FileNotFoundError:
        return _failure("missing", f"{path} does not exist")
    except OSError as error:
        return _failure("unreadable", f"{path} cannot be read ({error.strerror})")
    # A damaged file can make a decoder fail in any way.
    except (ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        return _failure("corrupt", f"{path} cannot be decoded ({reason})")


def _failure(status: str, message: str) -> Result:
    return Result(status, " ".join(message.split())[:_MESSAGE])


def _end_with(parent: int) -> None:
    """Ends this process once its parent is gone, even in a decoder that hangs."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def serve() -> None:
    """Does the jobs of the standard input until it ends."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    # Whatever a library prints must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answers.write("\n")
    for line in sys.stdin:
        answers.write(json.dumps(do_job(Job(*json.loads(line)))) + "\n")


if __name__ == "__main__":
    serve()
