"""The display times of a video from the index in its header, without its packets.

Reading every packet costs up to a twentieth of decoding, and for a long film that few
frames are wanted of, most of it. An mp4 lists its frames, but their times of decoding
alone are easily had; so this is for videos whose frames are displayed as they are
decoded, and all others are left to `packets`.
"""

from fractions import Fraction
from pathlib import Path

import av.error

from data_pipelines.decoding.containers import open_video
from data_pipelines.decoding.memory import reading_tables
from data_pipelines.decoding.open_start import begins_open
from data_pipelines.decoding.packets import MAX_FRAMES, Timeline, in_order
from data_pipelines.decoding.truncation import Walked, boxes, is_cut

# Codecs of which each packet is one displayed frame.
_ONE_EACH = ("h264", "hevc")
# Most bytes of a header that is searched.
_MOST_BYTES = 64 << 20
# Boxes that list frames, those of a whole file and of a fragment.
_HEADERS = (b"moov", b"moof")
# Boxes that say that frames are displayed in another order, and that more follow.
_REORDERING = (b"ctts", b"mvex")


def read_index(path: Path) -> Timeline | None:
    """The frames of a video as its header lists them; nothing of it is read.

    Returns:
        The same frames as `packets.read_timeline` finds; None if only that can tell.
        `step` is what the stated duration leaves to the last frame; `rate` is unknown.

    Raises:
        VideoError: the file cannot be opened.
    """
    # First, since it takes a tenth of the time of opening the video.
    if not _is_displayed_as_decoded(path):
        return None
    with reading_tables(), open_video(path) as (container, stream):
        context = stream.codec_context
        if (
            not container.format.name.startswith("mov")
            or context.name not in _ONE_EACH
            or context.has_b_frames
            or is_cut(path, container, stream, Walked(0, None, False))
        ):
            return None
        entries = [entry for entry in stream.index_entries if entry.size]
        if not 0 < len(entries) <= MAX_FRAMES or any(x.is_discard for x in entries):
            return None
        try:
            first = next(container.demux(stream))
        except av.error.FFmpegError:
            return None
        times = [entry.timestamp for entry in entries]
        keyframes = [entry.timestamp for entry in entries if entry.is_keyframe]
        if (
            not first.size
            # The codec may know better than the header.
            or not first.is_keyframe
            or begins_open(stream, first)
            or not in_order(times, keyframes)
        ):
            return None
        times.sort()
        tick = Fraction(stream.time_base or 0)
        step = (stream.duration or 0) - (times[-1] - times[0])
    return Timeline(times, sorted(keyframes), False, False, None, tick, step)


def _is_displayed_as_decoded(path: Path) -> bool:
    """Whether an mp4 states no time of display besides that of decoding."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(8)[4:] != b"ftyp":
                return False
            found = [box for box in boxes(file, size) if box.kind in _HEADERS]
            if [box.kind for box in found] != [b"moov"]:
                return False
            (header,) = found
            length = (header.end or size) - header.body
            if length > _MOST_BYTES:
                return False
            file.seek(header.body)
            content = file.read(length)
    # Whoever opens the video says what is wrong.
    except OSError:
        return False
    # By its name alone, which may stand there by chance: then packets are read.
    return not any(kind in content for kind in _REORDERING)
