"""Frame-exact uniform sampling of a video file, fast.

First every frame's time is read without decoding, from the packets or, where that tells
all, from the header; then as few frames as possible are decoded. The result equals
decoding the entire file and picking frames by number.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipelines.decoding.containers import open_video
from data_pipelines.decoding.frame_reader import decode_all_or_first, keep_uniform
from data_pipelines.decoding.header_index import read_index
from data_pipelines.decoding.kept_frames import KeptFrames
from data_pipelines.decoding.memory import reading_tables
from data_pipelines.decoding.packets import read_timeline
from data_pipelines.decoding.resizing import CLIP_RESIZING, Resizing
from data_pipelines.decoding.sampling import uniform_indices
from data_pipelines.decoding.truncation import Walked, is_cut
from data_pipelines.decoding.video_status import (
    OF_THE_MOMENT,
    STATUSES,
    VideoError,
    check_file,
    check_readable,
)

__all__ = [
    "STATUSES",
    "DecodedVideo",
    "VideoError",
    "decode_uniform",
    "one_error",
    "probe",
]


@dataclasses.dataclass(frozen=True)
class DecodedVideo:
    """Frames of one file.

    Attributes:
        frames: `uint8 [F, H, W, 3]`, RGB, as a player shows them; a list if frames of
            different sizes are not resized.
        total_frames: n, the number of decodable frames.
        notes: harmless statuses, of `video_status.NOTES`.
    """

    frames: np.ndarray | list[np.ndarray]
    total_frames: int
    notes: tuple[str, ...] = ()


def decode_uniform(
    path: str | Path,
    count: int,
    *,
    image_size: int | None = None,
    ignore_pixel_aspect: bool = False,
    resizing: Resizing = CLIP_RESIZING,
    threads: int = 1,
) -> DecodedVideo:
    """Decodes `count` uniform frames.

    Args:
        path: the file.
        count: F.
        image_size: height and width, pixels; frames are resized while decoding, so
            that none is kept in full size. None keeps the displayed size.
        ignore_pixel_aspect: whether non-square pixels count as square, as in loaders
            that do not stretch them.
        resizing: how frames are made square.
        threads: of the decoder. More take less time, if cores are idle, and more
            processor time; the frames are the same.

    Raises:
        VideoError: the file is missing, unreadable, damaged or holds no video.
    """
    path = Path(path)
    with one_error(path):
        kept = KeptFrames(path, image_size, ignore_pixel_aspect, resizing)
        listed = read_index(path)
        total = listed and keep_uniform(path, listed, kept, count, threads)
        if not total:
            kept.begin()
            timeline = read_timeline(path)
            total = keep_uniform(path, timeline, kept, count, threads)
            if total is None:
                total = decode_all_or_first(path, timeline, kept, count)
        frames = kept.take(uniform_indices(total, count))
        return DecodedVideo(frames, total, kept.notes())


def probe(path: str | Path) -> int:
    """The number of frames that a file states; nothing is decoded.

    If the header does not state it, as in Matroska, or the file seems truncated, the
    packets are counted.

    Raises:
        VideoError: the file is missing, unreadable, too large, truncated or holds no
            video.
    """
    path = Path(path)
    with one_error(path):
        with reading_tables(), open_video(path) as (container, stream):
            claimed = stream.frames
            if (
                claimed
                and not is_cut(path, container, stream, Walked(0, None, False))
                # The frames that a header lists may be missing.
                and any(packet.size for packet in container.demux(stream))
            ):
                return claimed
        return len(read_timeline(path).times)


@contextlib.contextmanager
def one_error(path: Path) -> Iterator[None]:
    """Checks the file, and turns every error of the block into a `VideoError`."""
    check_file(path)
    try:
        yield
    except VideoError as error:
        if error.status not in OF_THE_MOMENT:
            check_readable(path)
        raise
    except MemoryError:
        message = f"{path} takes too much memory to decode"
        raise VideoError("too_large", message) from None
    # A damaged file can make a decoder fail in any way.
    except (
        *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError),
        *(OSError, RuntimeError, TypeError, ValueError),
    ) as error:
        check_readable(path)
        reason = f"{type(error).__name__}: {error}"
        raise VideoError("corrupt", f"{path} cannot be decoded ({reason})") from None
