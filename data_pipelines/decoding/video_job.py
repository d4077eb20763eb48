"""The decoding of one video, and the worker process that does it.

The process reads jobs from standard input, one line of JSON each, and answers on
standard output: two lengths, then that many bytes of JSON and of frames; both lengths
are 0 if it is still at work. A decoder that crashes, hangs or takes too much memory
affects this process alone.
"""

import json
import os
import select
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.decoding.cuts import WINDOWS
from data_pipelines.decoding.frame_store import write_frames
from data_pipelines.decoding.frames import decode_uniform, probe
from data_pipelines.decoding.images import encode_jpeg
from data_pipelines.decoding.memory import limit_process
from data_pipelines.decoding.moments import Moment, VideoEnd, decode_moments
from data_pipelines.decoding.resizing import CLIP_RESIZING, Resizing
from data_pipelines.decoding.video_status import check_file, described, shortened

# Header of every answer: bytes of its JSON, bytes of its frames.
HEADER = struct.Struct("<II")
# Default time limit per file.
SECONDS = 120.0
MAX_BYTES = 4 << 30
# Memory limit of a process, bytes; twelve 4K frames need a fifth of it.
MEMORY = 4 << 30
# Not a property of the video, hence not one of `video_status.STATUSES`.
UNWRITABLE = "unwritable"
# Default length of a moment.
MOMENT_SECONDS = 8.0
# Size in pixels of frames that are decoded only to check that they can be.
_DROPPED = 64
_WATCH_SECONDS = 2.0
# An idle process ends to free its memory; starting another takes a fifth of a second.
_IDLE_SECONDS = 60.0


# JSON, and frames `uint8 [F, S, S, 3]` or None.
Answer = tuple[list[Any], np.ndarray | None]


class Result(NamedTuple):
    """The outcome of a job.

    Attributes:
        status: empty if it succeeded, else one of `video_status.STATUSES`.
        message: what is wrong, one line.
        notes: harmless statuses.
        total_frames: n, the frames of the file; 0 if unknown.
    """

    status: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()
    total_frames: int = 0


class DecodeJob(NamedTuple):
    """A video and what to do with it.

    Attributes:
        video: the file.
        frames: the file to write its frames to; empty to return them with the result.
        num_frames: F; 0 to read only the file's metadata.
        image_size: pixels; 0 to decode the frames and keep none.
        max_bytes: a larger file is not opened.
        ignore_pixel_aspect: whether non-square pixels count as square.
        resizing: how frames are made square.
    """

    video: str
    frames: str
    num_frames: int
    image_size: int
    max_bytes: int = MAX_BYTES
    ignore_pixel_aspect: bool = False
    # A list once it has been sent to a process.
    resizing: Sequence[str] = CLIP_RESIZING

    def answers(self, threads: int, progress: Callable[[], None]) -> Iterator[Answer]:
        """Does the job: one answer."""
        result, frames = decode_job(self, threads)
        yield list(result), frames

    def read(
        self, about: list[Any], frames: np.ndarray | None
    ) -> tuple[tuple[Result, np.ndarray | None], bool]:
        """What an answer says, and that it is the last."""
        status, message, notes, total_frames = about
        return (Result(status, message, tuple(notes), total_frames), frames), True

    def failed(
        self, status: str, message: str, count: int, last: Any
    ) -> tuple[Result, None]:
        """The answer where there is none."""
        return Result(status, message), None


class MomentsJob(NamedTuple):
    """A video to be decoded moment by moment; see `moments.decode_moments`.

    Attributes:
        video: the file.
        num_frames: F, frames of a moment.
        image_size: S, pixels.
        seconds: about how long a moment is.
        cut: where moments begin, a name of `cuts.CUTS`.
        max_bytes: a larger file is not opened.
        ignore_pixel_aspect: whether non-square pixels count as square.
        resizing: how frames are made square.
    """

    video: str
    num_frames: int
    image_size: int
    seconds: float = MOMENT_SECONDS
    cut: str = WINDOWS
    max_bytes: int = MAX_BYTES
    ignore_pixel_aspect: bool = False
    resizing: Sequence[str] = CLIP_RESIZING

    def answers(self, threads: int, progress: Callable[[], None]) -> Iterator[Answer]:
        """Does the job: an answer for each moment, and one for the end."""
        for answer in decode_moments(
            self.video,
            self.num_frames,
            self.seconds,
            self.image_size,
            self.ignore_pixel_aspect,
            cut=self.cut,
            resizing=Resizing(*self.resizing),
            max_bytes=self.max_bytes,
            threads=threads,
            progress=progress,
        ):
            if isinstance(answer, Moment):
                yield [answer.start, answer.end], answer.frames
            else:
                yield list(answer), None

    def read(
        self, about: list[Any], frames: np.ndarray | None
    ) -> tuple[Moment | VideoEnd, bool]:
        """What an answer says, and whether it is the last."""
        if frames is not None:
            start, end = about
            return Moment(start, end, frames), False
        status, message, notes, *rest = about
        return VideoEnd(status, message, tuple(notes), *rest), True

    def failed(
        self, status: str, message: str, count: int, last: Moment | None
    ) -> VideoEnd:
        """The end of a video whose decoder does not reach it.

        Args:
            status: one of `video_status.STATUSES`.
            message: what is wrong.
            count: how many moments came.
            last: the last of them.
        """
        reached = 0.0 if last is None else last.end
        return VideoEnd(status, message, duration=reached, moments=count)


# What a process can be asked to do, by name.
JOBS = {job.__name__: job for job in (DecodeJob, MomentsJob)}


def do_job(job: DecodeJob) -> Result:
    """Does one job in this process; frames without a file to go to are dropped."""
    return decode_job(job)[0]


def decode_job(job: DecodeJob, threads: int = 1) -> tuple[Result, np.ndarray | None]:
    """Does one job in this process.

    Args:
        job: the video.
        threads: of the decoder.

    Returns:
        The outcome, and the resized frames `uint8 [F, S, S, 3]` where the job
        asks for them.
    """
    path = Path(job.video)
    try:
        check_file(path, job.max_bytes)
        if not job.num_frames:
            return Result(total_frames=probe(path)), None
        decoded = decode_uniform(
            path,
            job.num_frames,
            # Small if none is kept, so that no frame is stored in full size.
            image_size=job.image_size or _DROPPED,
            ignore_pixel_aspect=job.ignore_pixel_aspect,
            resizing=Resizing(*job.resizing),
            threads=threads,
        )
        result = Result(notes=decoded.notes, total_frames=decoded.total_frames)
        if not job.image_size:
            return result, None
        if not job.frames:
            return result, np.stack(list(decoded.frames))
        encoded = [encode_jpeg(frame) for frame in decoded.frames]
        try:
            write_frames(Path(job.frames), encoded, decoded.notes)
        except OSError as error:
            reason = f"{job.frames} cannot be written ({error.strerror})"
            return Result(UNWRITABLE, shortened(reason)), None
        return result, None
    # A damaged file can make a decoder fail in any way.
    except Exception as error:
        return Result(*described(path, error)), None


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone, even while a decoder hangs."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def serve() -> None:
    """Does the jobs from standard input until it ends, or none comes for a while."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    limit_process(MEMORY)
    # Output of libraries must not mix with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answers.write(HEADER.pack(0, 0))
    answers.flush()
    waiting = select.poll()
    waiting.register(sys.stdin, select.POLLIN)

    def progress() -> None:
        answers.write(HEADER.pack(0, 0))
        answers.flush()

    # The next job is sent only after an answer, so none waits in Python's buffer.
    while waiting.poll(1000 * _IDLE_SECONDS) and (line := sys.stdin.readline()):
        name, threads, *fields = json.loads(line)
        for about, frames in JOBS[name](*fields).answers(threads, progress):
            text = json.dumps(about).encode()
            size = 0 if frames is None else frames.nbytes
            answers.write(HEADER.pack(len(text), size))
            answers.write(text)
            if frames is not None:
                answers.write(np.ascontiguousarray(frames).data)
            answers.flush()
            # Release its memory before the next.
            del frames


if __name__ == "__main__":
    serve()
