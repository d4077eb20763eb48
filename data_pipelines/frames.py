"""Exact uniform frames of a video file, fast.

Only the packets are walked through first, which gives every frame's time without
decoding one; then as few frames as possible are decoded. The result is that of decoding
the whole file and picking frames by number.
"""

import dataclasses
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from PIL import Image

# What can be wrong with a file, or worth knowing of it.
STATUSES = (
    "missing",
    "unreadable",
    "truncated",
    "corrupt",
    "no_video",
    "too_large",
    "timeout",
    "rotated",
    "short",
)
JPEG_QUALITY = 95
# Seconds by which a stream may end before it is said to; the last frame is shown for a
# while, and some writers round.
_SLACK = 0.5


class VideoError(Exception):
    """A file that gives no trustworthy frames.

    Attributes:
        status: one of `STATUSES`.
    """

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class DecodedVideo:
    """Frames of one file.

    Attributes:
        frames: `uint8 [F, H, W, 3]`, RGB, rotated as the file says.
        total_frames: n, the number of decodable frames.
        notes: statuses that did no harm: `rotated`, `short`.
    """

    frames: np.ndarray
    total_frames: int
    notes: tuple[str, ...] = ()


def uniform_indices(total: int, count: int) -> list[int]:
    """The middle frame of each of `count` equal intervals of `[0, total)`.

    A video of fewer frames repeats its last one.
    """
    if total < count:
        return [min(i, total - 1) for i in range(count)]
    edges = interval_edges(total, count)
    return [(a + b - 1) // 2 for a, b in itertools.pairwise(edges)]


def interval_edges(total: int, count: int) -> list[int]:
    """Where `[0, total)` is cut into `count` equal intervals, both ends included."""
    return np.linspace(0, total, count + 1).astype(int).tolist()


def decode_uniform(path: str | Path, count: int) -> DecodedVideo:
    """Decodes `count` uniform frames.

    Raises:
        VideoError: the file is missing, unreadable, damaged or holds no video.
    """
    path = Path(path)
    if not path.is_file():
        raise VideoError("missing", f"{path} does not exist")
    try:
        times, keyframes = _walk(path)
        total = len(times)
        try:
            frames = _decode_at(path, times, keyframes, uniform_indices(total, count))
        # Some containers say that they can be sought and then cannot, and some hold
        # packets that give no frame: what counts is what can be decoded.
        except (_NotSeekableError, av.error.FFmpegError):
            total, frames = _decode_all(path, total, count)
    except av.error.FFmpegError as error:
        raise VideoError("corrupt", f"{path} is damaged ({error.strerror})") from None
    notes = ["short"] if total < count else []
    turned = []
    for frame in frames:
        picture = frame.to_ndarray(format="rgb24")
        # PyAV gives the frame as stored; the display matrix turns it.
        quarter_turns = round(frame.rotation / 90) % 4
        turned.append(np.rot90(picture, quarter_turns))
        if quarter_turns and "rotated" not in notes:
            notes.append("rotated")
    return DecodedVideo(np.stack(turned), total, tuple(notes))


def probe(path: str | Path) -> int:
    """The number of frames that a file says it has; nothing is decoded.

    Where the header does not say it, as in Matroska, packets are counted.

    Raises:
        VideoError: the file is missing, unreadable, shorter than its index or holds no
            video.
    """
    path = Path(path)
    if not path.is_file():
        raise VideoError("missing", f"{path} does not exist")
    with _open(path) as container:
        stream = container.streams.video[0]
        size = path.stat().st_size
        # The index of an mp4 says where each frame lies.
        ends = [entry.pos + entry.size for entry in stream.index_entries]
        if ends and max(ends) > size:
            raise VideoError("truncated", f"{path} has {size:,} of {max(ends):,} bytes")
        claimed = stream.frames
    return claimed or len(_walk(path)[0])


class _NotSeekableError(Exception):
    """The wanted frame was not found where the index says it is."""


def _open(path: Path) -> InputContainer:
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise VideoError(
            "unreadable", f"{path} is not a readable video ({error.strerror})"
        ) from None
    if not container.streams.video:
        container.close()
        raise VideoError("no_video", f"{path} holds no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "NONE"
    # A flipped byte is to be an error, not a smear in the training data.
    stream.codec_context.options = {"err_detect": "explode"}
    return container


def _walk(path: Path) -> tuple[list[int], list[int]]:
    """Times of all frames in order of display, and of the keyframes among them."""
    with _open(path) as container:
        stream = container.streams.video[0]
        times, keyframes, cut = [], [], 0
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            # An edit list leaves it out of what is shown.
            if packet.is_discard:
                cut += 1
                continue
            times.append(packet.pts)
            if packet.is_keyframe:
                keyframes.append(packet.pts)
        claimed, promised = stream.frames, _promised_end(stream)
        tick = float(stream.time_base or 0)
        # An AVI has no times of display; FFmpeg then gives packets those of decoding.
        reordered = "avi" in container.format.name and stream.codec_context.has_b_frames
    if not times:
        raise VideoError("no_video", f"{path} holds no frame")
    if claimed and len(times) + cut < claimed:
        raise VideoError(
            "truncated", f"{path} ends after {len(times)} of {claimed} frames"
        )
    # Without keyframes nothing can be sought, and everything is decoded in order.
    if None in times or len(set(times)) < len(times) or reordered:
        return list(range(len(times))), []
    end = max(times) * tick
    if promised is not None and end < promised - _SLACK:
        raise VideoError(
            "truncated", f"{path} ends after {end:.1f} of {promised:.1f} seconds"
        )
    return sorted(times), sorted(keyframes)


def _promised_end(stream) -> float | None:
    """When Matroska says that the stream ends, seconds; None where nothing is said."""
    written = re.fullmatch(
        r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "")
    )
    if written is None:
        return None
    hours, minutes, seconds = (float(x) for x in written.groups())
    return 3600 * hours + 60 * minutes + seconds


def _decode_at(
    path: Path, times: Sequence[int], keyframes: Sequence[int], wanted: Sequence[int]
) -> list[av.VideoFrame]:
    """Decodes the wanted frames, jumping ahead where a later keyframe allows it."""
    if not keyframes:
        raise _NotSeekableError
    targets = [times[i] for i in wanted]
    missing = set(targets)
    found: dict[int, av.VideoFrame] = {}
    with _open(path) as container:
        stream = container.streams.video[0]
        position = times[0]
        while missing:
            target = min(missing)
            key = max((k for k in keyframes if k <= target), default=None)
            if key is not None and key > position:
                container.seek(key, stream=stream, backward=True, any_frame=False)
            before = len(missing)
            for position, frame in _decode_until(container, stream, missing):
                found[position] = frame
                missing.discard(position)
                upcoming = min(missing, default=None)
                if upcoming is None or any(position < k <= upcoming for k in keyframes):
                    break
            if len(missing) == before:
                raise _NotSeekableError
    return [found[target] for target in targets]


def _decode_until(container, stream, missing):
    """Yields (time, frame) of wanted frames from here on.

    What is not wanted and no other frame refers to is not decoded.
    """
    context = stream.codec_context
    last = max(missing)
    for packet in container.demux(stream):
        # A packet that is no target need only be decoded if others refer to it.
        context.skip_frame = (
            "DEFAULT" if packet.pts is None or packet.pts in missing else "NONREF"
        )
        for frame in packet.decode():
            if frame.pts in missing:
                yield frame.pts, frame
            elif frame.pts is not None and frame.pts > last:
                return


def _decode_all(
    path: Path, expected: int, count: int
) -> tuple[int, list[av.VideoFrame]]:
    """Decodes the whole file, and once more if it has not the frames expected.

    Returns:
        n, and its uniform frames.
    """
    wanted = uniform_indices(expected, count)
    found, total = {}, 0
    with _open(path) as container:
        for frame in container.decode(container.streams.video[0]):
            if total in wanted:
                found[total] = frame
            total += 1
    if not total:
        raise VideoError("no_video", f"{path} holds no frame")
    if total != expected:
        return _decode_all(path, total, count)
    return total, [found[i] for i in wanted]


def resize_and_crop(frame: np.ndarray, size: int) -> np.ndarray:
    """CLIP's preprocessing up to bytes: shorter side to `size`, centre crop.

    Args:
        frame: `uint8 [H, W, 3]`.
        size: pixels.

    Returns:
        `uint8 [size, size, 3]`, by PIL's antialiased bicubic filter.
    """
    height, width = frame.shape[:2]
    if (height, width) == (size, size):
        return frame
    short = min(height, width)
    scaled = (
        max(size, int(size * width / short)),
        max(size, int(size * height / short)),
    )
    image = Image.fromarray(frame).resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def encode_jpeg(frame: np.ndarray) -> bytes:
    """JPEG at quality 95 without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(
        buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4"
    )
    return buffer.getvalue()
