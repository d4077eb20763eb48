"""Opens untrusted video files: allowed formats, size limits, choice of the stream."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from data_pipelines.decoding.video_status import VideoError, check_file

# Most pixels of a frame, as coded and as displayed; 8K fits.
MAX_PIXELS = 36_000_000
MAX_STREAMS = 64
# FFmpeg also counts the padding of rows; decoded frames are checked again.
_MAX_PADDED_PIXELS = str(MAX_PIXELS * 10 // 9)
# FFmpeg's names of allowed containers. Each is a single file; formats that name other
# files (playlists, scripts, image sequences) and devices are left out.
_CONTAINERS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "flv"),
    *("live_flv", "kux", "mpegts", "mpeg", "mpegvideo", "asf", "asf_o", "ogg", "gif"),
    *("apng", "nut", "mxf", "ivf", "rm", "dv", "wtv", "gxf", "nsv", "swf", "dhav"),
    *("yuv4mpegpipe", "h261", "h263", "h264", "hevc", "vvc", "av1", "obu", "m4v"),
    *("mjpeg", "vc1", "cavsvideo", "dirac", "dnxhd", "bink", "smk", "roq", "flic"),
    # Audio formats, perhaps with cover art: reported as files without video.
    *("mp3", "wav", "w64", "flac", "aac", "ac3", "eac3", "aiff", "au", "caf", "amr"),
    *("ape", "wv", "tta", "dts"),
)
_OPTIONS = {
    "format_whitelist": ",".join(_CONTAINERS),
    "protocol_whitelist": "file",
    # A mov file can refer to samples in other files.
    "enable_drefs": "0",
    # One more, so that an excess can be detected.
    "max_streams": str(MAX_STREAMS + 1),
    # Probing decodes as well.
    "max_pixels": _MAX_PADDED_PIXELS,
}
# Tags in another encoding do not make a file unreadable; PyAV from 19 on keeps their
# bytes and has no option for it.
_TAGS: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)
# A corrupt byte must be an error, not an artefact in the training data.
_DECODER_OPTIONS = {"err_detect": "explode", "max_pixels": _MAX_PADDED_PIXELS}
# What FFmpeg means where it borrows an error of the system.
_REASONS = {
    errno.EINVAL: "not a supported container format",
    **dict.fromkeys((errno.ENOENT, errno.EACCES, errno.EPERM), "damaged"),
}
_PICTURES = (
    Disposition.attached_pic
    | Disposition.timed_thumbnails
    | Disposition.still_image
    | Disposition.dependent
)


@contextlib.contextmanager
def open_video(
    path: Path, threads: int = 1
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a file and selects its video stream.

    Args:
        path: the file.
        threads: of the decoder. With several it reports an error some frames late.

    Raises:
        VideoError: it cannot be opened, is too large or holds no video stream.
    """
    container = _open(path)
    try:
        stream = _best_stream(path, container)
        stream.thread_type = "AUTO" if threads > 1 else "NONE"
        # Decoders of other libraries, such as dav1d, do not look at the type, and take
        # a thread for each core unless they are told a number.
        stream.codec_context.thread_count = threads
        yield container, stream
    finally:
        container.close()


def _open(path: Path) -> InputContainer:
    try:
        # With `file:` in front, no part of a path is taken for a protocol.
        return av.open(f"file:{path}", options=_OPTIONS, **_TAGS)
    except av.error.FFmpegError as error:
        if error.errno == errno.ENOMEM:
            message = f"{path} takes too much memory to open"
            raise VideoError("too_large", message) from None
        # FFmpeg also says so of content that is damaged, so that the system is asked.
        check_file(path)
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise VideoError(
            "unreadable", f"{path} is not a readable video ({reason})"
        ) from None


def _best_stream(path: Path, container: InputContainer) -> VideoStream:
    """The video stream: default ones first, then those that move, then most pixels.

    The order is FFmpeg's, except for the second: an animated AVIF states its first
    picture as a stream of its own, of the same size.

    Raises:
        VideoError: no stream can be decoded, or it is too large.
    """
    if len(container.streams) > MAX_STREAMS:
        raise VideoError("too_large", f"{path} has more than {MAX_STREAMS} streams")
    moving = [x for x in container.streams.video if not x.disposition & _PICTURES]
    if not moving:
        raise VideoError("no_video", f"{path} holds no video stream")
    known = [x for x in moving if x.codec_context is not None]
    if not known:
        raise VideoError("unreadable", f"{path} uses an unknown codec")
    # Of equal streams `max` takes the first, as FFmpeg does.
    stream = max(
        known,
        key=lambda x: (
            bool(x.disposition & Disposition.default),
            x.frames != 1,
            x.width * x.height,
        ),
    )
    context = stream.codec_context
    check_pixels(path, context.width, context.height)
    check_pixels(path, context.coded_width, context.coded_height)
    if container.format.name == "gif":
        check_pixels(path, *_gif_size(path))
    context.options = _DECODER_OPTIONS
    return stream


def _gif_size(path: Path) -> tuple[int, int]:
    """Width and height of a GIF, which FFmpeg knows only after decoding a frame."""
    with path.open("rb") as file:
        head = file.read(10)
    return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")


def check_pixels(path: Path, width: int, height: int) -> None:
    """Checks that frames of this size are small enough to decode.

    Raises:
        VideoError: they are too large.
    """
    if width * height > MAX_PIXELS:
        raise VideoError(
            "too_large",
            f"{path} has frames of {width:,} by {height:,} pixels; at most "
            f"{MAX_PIXELS:,} are decoded",
        )


def grew_too_large(stream: VideoStream) -> bool:
    """Whether decoding failed because the frame size changed to one that is too large.

    FFmpeg's decoders either reset a size that they refuse to 0, or leave it set.
    """
    context = stream.codec_context
    return context.is_open and not 0 < context.width * context.height <= MAX_PIXELS
