"""The sampled frames of a file, as they are displayed, until they are handed on."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from data_pipelines.decoding.containers import check_pixels
from data_pipelines.decoding.display import PixelAspect, display, displayed_width
from data_pipelines.decoding.images import resize_frame
from data_pipelines.decoding.resizing import CLIP_RESIZING, Resizing
from data_pipelines.decoding.video_status import NOTES, VideoError

# Most bytes of the frames that are held at once.
_MAX_BYTES = 2 << 30
# Most pixels that are buffered before conversion; alternating it with decoding frame by
# frame is 10 % slower.
_MOST_WAITING = 1 << 24


class KeptFrames:
    """Collects frames by their number and converts them.

    Args:
        path: the file, for messages.
        image_size: height and width, pixels; None keeps the displayed size.
        ignore_pixel_aspect: whether non-square pixels count as square.
        resizing: how frames are made square.

    Attributes:
        displayed: width and height of the first converted frame as it is displayed,
            before resizing; zeros until there is one.
    """

    def __init__(
        self,
        path: Path,
        image_size: int | None,
        ignore_pixel_aspect: bool,
        resizing: Resizing = CLIP_RESIZING,
    ):
        self.path = path
        self._image_size, self._resizing = image_size, resizing
        self._ignore_pixel_aspect = ignore_pixel_aspect
        self.begin()

    def begin(self) -> None:
        """Starts over with the file."""
        self.displayed = (0, 0)
        self._sizes: set[tuple[int, int]] = set()
        self._notes: set[str] = set()
        self.drop()

    def drop(self) -> None:
        """Forgets the frames that are held, but not what is known of the file."""
        self._images: dict[int, np.ndarray] = {}
        self._bytes = 0
        self._waiting: dict[int, tuple[av.VideoFrame, Fraction]] = {}
        self._pixels_waiting = 0

    def of(self, stream: VideoStream) -> PixelAspect:
        """The pixel aspect ratio of a stream; square if it is to be ignored."""
        return PixelAspect(stream, self._ignore_pixel_aspect)

    def keep(self, index: int, frame: av.VideoFrame, aspect: Fraction) -> None:
        """Adds a frame by its number."""
        check_pixels(self.path, frame.width, frame.height)
        width = displayed_width(frame.width, aspect)
        check_pixels(self.path, width, frame.height)
        self._waiting[index] = frame, aspect
        self._pixels_waiting += frame.width * frame.height
        if self._pixels_waiting > _MOST_WAITING:
            self._convert()

    def holds(self, index: int) -> bool:
        """Whether a frame is held."""
        return index in self._waiting or index in self._images

    def _convert(self) -> None:
        for index, (frame, aspect) in self._waiting.items():
            image, notes = display(frame, aspect)
            self._sizes.add((frame.width, frame.height))
            self._notes |= notes
            if not any(self.displayed):
                self.displayed = image.shape[1], image.shape[0]
            if self._image_size:
                image = resize_frame(image, self._image_size, self._resizing)
            self._bytes += image.nbytes
            if self._bytes > _MAX_BYTES:
                message = f"{self.path} gives frames of more than {_MAX_BYTES:,} bytes"
                raise VideoError("too_large", message)
            self._images[index] = image
        self._waiting, self._pixels_waiting = {}, 0

    def take(self, indices: Sequence[int]) -> np.ndarray | list[np.ndarray]:
        """Hands the frames of these numbers on; an index may be repeated.

        Returns:
            `uint8 [F, H, W, 3]`; a list if the frames have different sizes.
        """
        self._convert()
        if len(set(indices)) < len(indices):
            self._notes.add("short")
        images = [self._images[index] for index in indices]
        for index in set(indices):
            self._bytes -= self._images.pop(index).nbytes
        alike = len({image.shape for image in images}) == 1
        return np.stack(images) if alike else images

    def notes(self) -> tuple[str, ...]:
        """The harmless statuses of the file so far."""
        found = self._notes | ({"resized"} if len(self._sizes) > 1 else set())
        return tuple(note for note in NOTES if note in found)
