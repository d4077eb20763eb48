"""Videos of a batch: decoded here, with the methods that mteb's collators call.

mteb's collators choose frames of torchcodec's decoders. Those need FFmpeg on the
machine and one build of PyTorch; the project's own decoding needs neither, and gives
the frames that the same file gives everywhere else in it.
"""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.numbered import NumberedFrames
from data_pipelines.decoding.resizing import Resizing
from data_pipelines.decoding.video_status import VideoError
from vop_jax.surface.inputs import kind_of


class FilmMetadata(NamedTuple):
    """What is known before any frame is decoded.

    Attributes:
        num_frames: of the video.
        end_stream_seconds: when its last frame ends; None if unknown.
    """

    num_frames: int
    end_stream_seconds: float | None


class FilmFrames(NamedTuple):
    """Frames as torchcodec's decoders give them.

    Attributes:
        data: `uint8 [F, 3, H, W]`, RGB.
    """

    data: UInt8[np.ndarray, "F 3 H W"]


class Film:
    """A video file in the form of torchcodec's `VideoDecoder`.

    Args:
        path: the file.
        image_size: height and width of its frames, pixels.
        resizing: how they are made square.
    """

    def __init__(self, path: str | Path, image_size: int, resizing: Resizing):
        self._frames = NumberedFrames(path, image_size, resizing)
        self.metadata = FilmMetadata(self._frames.total, self._frames.seconds)

    def get_frames_at(self, indices: Sequence[int]) -> FilmFrames:
        """The frames of these numbers, in this order."""
        # They are of one size, so that this is an array.
        return FilmFrames(np.moveaxis(np.asarray(self._frames.take(indices)), -1, 1))


class FilmCollator:
    """Collates rows with a video each; a process of the loader may call it.

    Args:
        choose: mteb's collator, which replaces each row's decoder by frames.
        image_size: height and width of frames, pixels.
        resizing: how they are made square.
    """

    def __init__(
        self,
        choose: Callable[[list[dict[str, Any]]], Any],
        image_size: int,
        resizing: Resizing,
    ):
        self._choose, self._form = choose, (image_size, resizing)

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        """Opens the videos of a batch and chooses their frames.

        Raises:
            UserError: a video cannot be decoded, or is none.
        """
        batches = []
        for row in rows:
            place = f"video {row['id']}" if "id" in row else "a video"
            with contextlib.ExitStack() as files:
                try:
                    opened = row | {"video": self._film(row["video"], files)}
                    batches.append(self._choose([opened]))
                except VideoError as error:
                    raise UserError(f"{place}: {error}") from None
        return {key: [x[key][0] for x in batches] for key in batches[0]}

    def _film(self, video: Any, files: contextlib.ExitStack) -> Any:
        """A decoder of what a row holds: a path, a stored file, or a decoder."""
        if hasattr(video, "get_frames_at"):
            return video
        if isinstance(video, str):
            return Film(video, *self._form)
        if not isinstance(video, dict) or not {"bytes", "path"} <= video.keys():
            raise UserError(
                f"a row's video is {kind_of(video)}; it has to be a path or a column "
                "of the type datasets.Video"
            )
        if video["bytes"] is None:
            return Film(video["path"], *self._form)
        folder = files.enter_context(tempfile.TemporaryDirectory())
        path = Path(folder) / Path(video["path"] or "video").name
        path.write_bytes(video["bytes"])
        return Film(path, *self._form)
