"""Reads the videos that a caller passes, and collects those that fail.

Files are decoded in parallel by worker processes (`data_pipelines.decoding.workers`).
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.frames import VideoError
from data_pipelines.decoding.images import resize_frame
from data_pipelines.decoding.moments import Moment, VideoEnd
from data_pipelines.decoding.resizing import CLIP_RESIZING, Resizing
from data_pipelines.decoding.video_job import DecodeJob, MomentsJob
from data_pipelines.decoding.workers import shared_workers
from vop_jax.surface.inputs import as_array, check_frames, path_of

Frames = UInt8[np.ndarray, "F S S 3"]


class FailedVideo(NamedTuple):
    """A video without an embedding.

    Attributes:
        position: its index among the videos passed, from 0.
        video: its path; empty for an array.
        status: one of `data_pipelines.decoding.video_status.STATUSES`, or `invalid`
            for an item that is neither a path nor frames.
        message: what is wrong, one line.
    """

    position: int
    video: str
    status: str
    message: str


class EncodedVideos(NamedTuple):
    """Embeddings of videos, and the videos that failed.

    Attributes:
        features: float32 `[K, E]`.
        kept: for each row, the index of its video among those passed, from 0.
        failed: the other videos.
    """

    features: Float[np.ndarray, "K E"]
    kept: list[int]
    failed: list[FailedVideo]


def result_of(
    on_error: str,
    features: Sequence[np.ndarray],
    kept: list[int],
    failed: list[FailedVideo],
) -> Any:
    """What `encode_videos` returns, which depends on `on_error`."""
    joined = np.concatenate(features)
    return EncodedVideos(joined, kept, failed) if on_error == "skip" else joined


def each_video(
    videos: Iterable[Any], check: Callable[[int], None]
) -> Iterator[str | UInt8[np.ndarray, "F H W 3"] | UserError]:
    """Yields each video as a path, its frames, or the error about it.

    Args:
        videos: paths and arrays.
        check: raises `UserError` for a number of frames that is not allowed.
    """
    for number, video in enumerate(videos):
        name = f"video {number}"
        try:
            # A string of NumPy's is an array as well.
            if not isinstance(video, str) and (
                hasattr(video, "__array__") or isinstance(video, list | tuple)
            ):
                frames = check_frames(as_array(video, name), f"the frames of {name}")
                check(len(frames))
                yield frames
            else:
                yield path_of(video, name)
        except UserError as error:
            yield error


class FrameForm(NamedTuple):
    """Which frames are made of a video.

    Attributes:
        num_frames: F, of a file.
        image_size: S, height and width in pixels.
        resizing: how they are made square.
    """

    num_frames: int
    image_size: int
    resizing: Resizing = CLIP_RESIZING

    def job(self, path: str) -> DecodeJob:
        """Makes them of a file."""
        size = self.num_frames, self.image_size
        return DecodeJob(path, "", *size, resizing=self.resizing)

    def moments_job(self, path: str, seconds: float, cut: str) -> MomentsJob:
        """Makes them of each moment of a file."""
        size = self.num_frames, self.image_size
        return MomentsJob(path, *size, seconds, cut, resizing=self.resizing)


def read_file(path: str, form: FrameForm) -> Frames | VideoError:
    """Uniformly sampled frames of a file, made square, or the error."""
    job = form.job(path)
    result, frames = shared_workers().decode_one(job)
    return VideoError(result.status, result.message) if frames is None else frames


def read_each(
    items: Iterable[Any],
    form: FrameForm,
    ahead: int,
    *,
    in_order: bool,
) -> Generator[tuple[int, str, Any], None, None]:
    """Frames of many videos, as `read_file` returns them.

    Args:
        items: paths, frames of any size, or errors.
        form: of the frames.
        ahead: how many videos are read before they are consumed; two more per process
            are in progress.
        in_order: whether they come in the order of the items instead of the order of
            completion.

    Yields:
        The item's index from 0, its path, and its frames `[F, S, S, 3]` or the error.
    """
    workers = shared_workers()
    jobs = (form.job(item) if isinstance(item, str) else item for item in items)
    ahead += 2 * workers.count
    with contextlib.closing(workers.decode(jobs, ahead, in_order=in_order)) as done:
        for place, job, result, frames in done:
            if isinstance(job, np.ndarray):
                how = form.image_size, form.resizing
                resized = [resize_frame(frame, *how) for frame in job]
                yield place, "", np.stack(resized)
            elif not isinstance(job, DecodeJob):
                yield place, "", job
            elif frames is None:
                yield place, job.video, VideoError(result.status, result.message)
            else:
                yield place, job.video, frames


def moments_of(
    paths: Iterable[str], form: FrameForm, seconds: float, ahead: int, cut: str
) -> Generator[tuple[int, Moment | VideoEnd], None, None]:
    """Moments of many files; see `data_pipelines.decoding.moments`.

    Args:
        paths: of the files, read as far as needed.
        form: of the frames of each moment.
        seconds: about how long a moment is.
        ahead: how many moments are decoded before they are consumed; a few more per
            process are in progress.
        cut: where moments begin.

    Yields:
        The index of the path from 0, and a moment, or the end of its file.
    """
    workers = shared_workers()
    jobs = (form.moments_job(path, seconds, cut) for path in paths)
    ahead += 2 * workers.count
    with contextlib.closing(workers.decode_moments(jobs, ahead)) as answers:
        for place, _, answer in answers:
            yield place, answer


def good_videos(
    read: Iterable[tuple[int, str, Any]],
    on_error: str,
    kept: list[int],
    failed: list[FailedVideo],
) -> Iterator[Frames]:
    """Yields the frames of readable videos and records which succeed and fail.

    Args:
        read: the result of `read_each`.
        on_error: "skip" or "raise".
        kept: is extended by the indices of the readable videos.
        failed: is extended by the others.

    Raises:
        UserError: a video cannot be read and `on_error` is "raise".
    """
    for place, path, frames in read:
        if isinstance(frames, np.ndarray):
            kept.append(place)
            yield frames
        elif on_error == "skip":
            status = frames.status if isinstance(frames, VideoError) else "invalid"
            failed.append(FailedVideo(place, path, status, str(frames)))
        else:
            raise UserError(f"{frames}; fix it, or leave it out by on_error='skip'")


def in_batches(videos: Iterable[Frames], size: int) -> Iterator[np.ndarray]:
    """Batches `[B, F, S, S, 3]` of consecutive videos with equal F."""
    batch: list[np.ndarray] = []
    for video in videos:
        if batch and (len(batch) == size or len(video) != len(batch[0])):
            yield np.stack(batch)
            batch = []
        batch.append(video)
    if batch:
        yield np.stack(batch)
