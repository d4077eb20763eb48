"""A decoded frame as a player shows it: rotated, mirrored, with square pixels."""

from fractions import Fraction
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL import Image

# A more extreme pixel aspect ratio is taken for a writer's mistake.
_MOST_ASPECT = 10
# Transfer functions PQ and HLG, as numbered in ITU-T H.273.
_HDR = (16, 18)


class Orientation(NamedTuple):
    """How stored rows and columns become displayed ones.

    Attributes:
        transposed: whether rows and columns are swapped, before anything else.
        from_right: whether columns are then mirrored.
        from_below: whether rows are then mirrored.
    """

    transposed: bool = False
    from_right: bool = False
    from_below: bool = False

    def displayed(
        self, pixels: UInt8[np.ndarray, "h w 3"]
    ) -> UInt8[np.ndarray, "H W 3"]:
        """A stored image, turned as displayed; a view of it."""
        if self.transposed:
            pixels = pixels.transpose(1, 0, 2)
        if self.from_right:
            pixels = pixels[:, ::-1]
        if self.from_below:
            pixels = pixels[::-1]
        return pixels


class PixelAspect:
    """The pixel aspect ratio (width by height) of a stream.

    The container's value is used. If it only repeats the codec's first value, the
    codec's current value is used instead, since it changes within a broadcast.

    Args:
        stream: of an open file of which nothing has been decoded.
        ignored: whether all pixels count as square.
    """

    def __init__(self, stream: VideoStream, ignored: bool = False):
        self._stream, self._ignored = stream, ignored
        self._coded_at_first = stream.codec_context.sample_aspect_ratio
        self._at_first = _plausible(stream.sample_aspect_ratio)
        self._repeated = self._at_first == _plausible(self._coded_at_first)

    def now(self) -> Fraction:
        """The aspect ratio of the last decoded frame; 1 for square pixels."""
        if self._ignored:
            return Fraction(1)
        coded = self._stream.codec_context.sample_aspect_ratio
        if not self._repeated or coded == self._coded_at_first:
            return self._at_first
        return _plausible(coded)


def _plausible(aspect: Fraction | None) -> Fraction:
    if not aspect or not Fraction(1, _MOST_ASPECT) <= aspect <= _MOST_ASPECT:
        return Fraction(1)
    # PyAV from 19 on has a type of its own for it.
    return Fraction(aspect)


def displayed_width(width: int, aspect: Fraction) -> int:
    """The width of a frame in square pixels."""
    return width if aspect == 1 else max(1, round(width * aspect))


def display(frame: av.VideoFrame, aspect: Fraction) -> tuple[np.ndarray, set[str]]:
    """Converts a frame to RGB as it is displayed.

    Args:
        frame: as decoded.
        aspect: its pixel aspect ratio, width by height.

    Returns:
        `uint8 [H, W, 3]`, RGB, and those of `video_status.NOTES` that apply.
    """
    notes = set()
    # More threads would be started for every frame, and may not fit into the memory
    # limit of the process.
    pixels = frame.to_ndarray(format="rgb24", threads=1)
    width = displayed_width(frame.width, aspect)
    if width != frame.width:
        image = Image.fromarray(pixels)
        image = image.resize((width, frame.height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
        notes.add("stretched")
    orientation = orientation_of(frame)
    if any(orientation):
        notes.add("rotated")
    pixels = orientation.displayed(pixels)
    if frame.color_trc in _HDR:
        notes.add("hdr")
    return pixels, notes


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """The orientation that the frame's display matrix states.

    The matrix may be in the container or in the stream. Scaling is ignored, and other
    angles are rounded to a quarter turn, ties to the smaller one.
    """
    try:
        # Not `frame.side_data`: the frame would hold it and it the frame, until the
        # collector comes, which counts objects and not bytes.
        container: Any = SideDataContainer
        beside = container(frame)
        every = [beside[place] for place in range(len(beside))]
        # If both the container and the stream have one, FFmpeg uses the first.
        found = [data for data in every if data.type == Type.DISPLAYMATRIX]
    # PyAV does not know every type of side data.
    except ValueError:
        quarter_turns = round(frame.rotation / 90) % 4
        return (
            Orientation(),
            Orientation(True, False, True),
            Orientation(False, True, True),
            Orientation(True, True, False),
        )[quarter_turns]
    if not found:
        return Orientation()
    # The matrix maps a point (x, y) to (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(found[0]), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)
