"""Makes one preview: a stretch of a video as H.264 in mp4, which every browser plays.

It runs in a process of its own, which reads a job from standard input and prints the
outcome, both as JSON. A decoder that crashes, hangs or takes too much memory affects
that process alone.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from data_pipelines.console.printable import printable
from data_pipelines.decoding.containers import open_video
from data_pipelines.decoding.display import (
    Orientation,
    PixelAspect,
    displayed_width,
    orientation_of,
)
from data_pipelines.decoding.memory import limit_process
from data_pipelines.decoding.video_status import VideoError, check_file

# Largest height and width of a preview, pixels.
HEIGHT, WIDTH = 480, 1280
# Most frames per second; more are left out.
RATE = 30
_SAMPLE_RATE = 44_100
# Of the preview's video stream; every usual frame rate is exact enough in it.
_TIME_BASE = Fraction(1, 90_000)
# Damaged packets that are skipped before the file counts as unreadable.
_MOST_DAMAGED = 200
# Seconds before the wanted time to seek to, one after the other.
_MARGINS = (0.0, 2.0, 10.0)
# Frames of sound that are held before the first picture; they take some kilobytes each.
_MOST_EARLY = 4_000
# Memory limit of the process, bytes.
_MEMORY = 4 << 30
# What browsers play as it is: media type and codecs by FFmpeg's container name and the
# file's suffix, since FFmpeg does not tell WebM from Matroska.
_DIRECT = {
    ("mov,mp4,m4a,3gp,3g2,mj2", ".mp4"): (
        "video/mp4",
        {"h264", "av1", "vp9"},
        {"aac", "mp3", "opus", "flac"},
    ),
    ("mov,mp4,m4a,3gp,3g2,mj2", ".m4v"): ("video/mp4", {"h264"}, {"aac", "mp3"}),
    ("matroska,webm", ".webm"): (
        "video/webm",
        {"vp8", "vp9", "av1"},
        {"opus", "vorbis"},
    ),
}
# Decoders' names where they differ from the codec's.
_CODECS = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}
# 8 bits, chroma subsampled twice: what hardware decoders have.
_PIXELS = {"yuv420p", "yuvj420p"}


class PreviewJob(NamedTuple):
    """A stretch of a video, and where its preview goes.

    Attributes:
        video: the file.
        output: the preview's file.
        start: seconds from the video's first frame.
        end: seconds.
    """

    video: str
    output: str
    start: float
    end: float


def do_job(job: PreviewJob) -> dict[str, str]:
    """Does one job in this process.

    Returns:
        `{"direct": media type}` if browsers play the file as it is, `{}` if the preview
        was written, or `{"status", "error"}`.
    """
    path = Path(job.video)
    try:
        check_file(path)
        with open_video(path) as (container, stream):
            media_type = playable(path, container, stream)
            if media_type:
                return {"direct": media_type}
            _write_preview(job, container, stream)
    except VideoError as error:
        return {"status": error.status, "error": str(error)}
    except (av.error.FFmpegError, MemoryError, ValueError, ArithmeticError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return {"status": "corrupt", "error": f"{path} cannot be decoded ({reason})"}
    return {}


def playable(path: Path, container: InputContainer, stream: VideoStream) -> str:
    """The media type under which browsers play a file as it is; empty if they do not.

    Args:
        path: of the file; its suffix tells WebM from Matroska.
        container: the open file.
        stream: its video stream.
    """
    key = (container.format.name, path.suffix.lower())
    if key not in _DIRECT or container.metadata.get("major_brand") == "qt  ":
        return ""
    media_type, videos, audios = _DIRECT[key]
    context = stream.codec_context
    name = _CODECS.get(context.name, context.name)
    sounds = [x.codec_context for x in container.streams.audio]
    heard = all(x is not None and x.name.partition("_")[0] in audios for x in sounds)
    plays = name in videos and context.pix_fmt in _PIXELS and heard
    # A player takes the first stream, and one that has to choose may choose otherwise.
    return media_type if plays and len(container.streams.video) == 1 else ""


def _write_preview(
    job: PreviewJob, container: InputContainer, stream: VideoStream
) -> None:
    length = job.end - job.start
    aspect = PixelAspect(stream)
    sound = next((x for x in container.streams.audio if x.codec_context), None)
    origin = _origin(stream)
    if job.start > 0:
        _seek(container, stream, job.start + origin)
    options = {"movflags": "+faststart"}
    with av.open(f"file:{job.output}", "w", format="mp4", options=options) as output:
        video = _Video(output, aspect, length)
        audio = _Audio(output, length) if sound is not None else None
        # The first written packet fixes the streams, and the first picture the size.
        early: list[tuple[Any, float]] = []
        streams = [x for x in (stream, sound) if x is not None]
        for frame in _decoded(container, streams):
            if frame.pts is None or frame.time_base is None:
                continue
            time = float(frame.pts * frame.time_base) - origin - job.start
            if isinstance(frame, av.VideoFrame):
                video.add(frame, time)
            elif 0 <= time < length + 1:
                early.append((frame, time))
            if audio is not None and video.is_open:
                for sound_frame, when in early:
                    audio.add(sound_frame, when)
                early.clear()
            if video.ended and (audio is None or audio.ended or time > length + 1):
                break
            # A minute of sound before any picture is a writer's mistake.
            if len(early) > _MOST_EARLY:
                break
        video.close()
        if audio is not None:
            for sound_frame, when in early:
                audio.add(sound_frame, when)
            audio.close()


def _origin(stream: VideoStream) -> float:
    """The time of the video's first frame, seconds."""
    if stream.start_time is None or stream.time_base is None:
        return 0.0
    return float(stream.start_time * stream.time_base)


def _seek(container: InputContainer, stream: VideoStream, time: float) -> None:
    """Goes to a key frame at or before a time, seconds.

    Formats without an index, such as MPEG-TS, are searched by an estimate, which may
    lead behind it.
    """
    for margin in _MARGINS:
        place = max(0, round((time - margin) * av.time_base))
        # FFmpeg may refuse a time behind the last key frame.
        with contextlib.suppress(av.error.FFmpegError):
            container.seek(place, backward=True)
            keys = (x for x in container.demux(stream) if x.is_keyframe)
            first = next((x.pts for x in keys if x.pts is not None), None)
            container.seek(place, backward=True)
            if first is not None and first * (stream.time_base or 1) <= time:
                return
    # Read from the beginning, where that is possible at all.
    with contextlib.suppress(av.error.FFmpegError):
        container.seek(0, backward=True)


def _decoded(container: InputContainer, streams: list[Any]) -> Iterator[Any]:
    """The frames of streams; damaged packets are left out."""
    damaged = 0
    for packet in container.demux(*streams):
        try:
            yield from packet.decode()
        except av.error.EOFError:
            continue
        except av.error.FFmpegError:
            damaged += 1
            if damaged > _MOST_DAMAGED:
                raise


class _Video:
    """The preview's pictures.

    Args:
        output: the open preview.
        aspect: of the pixels of the video.
        length: seconds.
    """

    def __init__(self, output: OutputContainer, aspect: PixelAspect, length: float):
        self.ended = False
        self._output, self._aspect, self._length = output, aspect, length
        self._stream: Any = None
        self._orientation = Orientation()
        # The last frame before the stretch, which is shown until its first.
        self._before: av.VideoFrame | None = None
        self._last = -1.0

    def add(self, frame: av.VideoFrame, time: float) -> None:
        """Adds a frame; `time` counts from the start of the stretch."""
        # Times in files are rounded, half a frame is less than a frame's distance.
        if time < -0.5 / RATE:
            self._before = frame
            return
        if time >= self._length:
            self.ended = True
            return
        if self._before is not None:
            if time > 0.5 / RATE:
                self._write(self._before, 0.0)
            self._before = None
        if self._last < 0 or time - self._last >= 0.9 / RATE:
            self._write(frame, max(time, 0.0))

    @property
    def is_open(self) -> bool:
        """Whether the size of the preview is known."""
        return self._stream is not None

    def close(self) -> None:
        """Writes what is left.

        Raises:
            VideoError: there was no frame.
        """
        if self._before is not None and self._stream is None:
            self._write(self._before, 0.0)
        if self._stream is None:
            raise VideoError("unreadable", "the stretch holds no frame")
        self._output.mux(self._stream.encode(None))

    def _write(self, frame: av.VideoFrame, time: float) -> None:
        if self._stream is None:
            self._stream = self._opened(frame)
        width, height = self._stream.width, self._stream.height
        if any(self._orientation):
            size = (height, width) if self._orientation.transposed else (width, height)
            pixels = frame.reformat(*size, "rgb24").to_ndarray()
            turned = np.ascontiguousarray(self._orientation.displayed(pixels))
            shown = av.VideoFrame.from_ndarray(turned, "rgb24")
            shown = shown.reformat(format="yuv420p")
        else:
            shown = frame.reformat(width, height, "yuv420p")
        shown.time_base, shown.pts = _TIME_BASE, round(time / _TIME_BASE)
        # Otherwise the encoder repeats the file's choice of key frames.
        shown.pict_type = 0
        self._last = time
        self._output.mux(self._stream.encode(shown))

    def _opened(self, frame: av.VideoFrame) -> Any:
        self._orientation = orientation_of(frame)
        width = displayed_width(frame.width, self._aspect.now())
        height = frame.height
        if self._orientation.transposed:
            width, height = height, width
        scale = min(1.0, HEIGHT / height, WIDTH / width)
        options = {"preset": "superfast", "crf": "25", "threads": "2"}
        stream: Any = self._output.add_stream("libx264", rate=RATE, options=options)
        # H.264 with subsampled chroma has even sizes only.
        stream.width = max(2, round(width * scale / 2) * 2)
        stream.height = max(2, round(height * scale / 2) * 2)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = _TIME_BASE
        # Seeking in the preview starts from key frames a second apart.
        stream.codec_context.gop_size = RATE
        return stream


class _Audio:
    """The preview's sound, as AAC.

    Args:
        output: the open preview.
        length: seconds.
    """

    def __init__(self, output: OutputContainer, length: float):
        self.ended = False
        self._output, self._length = output, length
        self._stream: Any = output.add_stream("aac", rate=_SAMPLE_RATE, layout="stereo")
        self._resampler = av.AudioResampler("fltp", "stereo", _SAMPLE_RATE)
        self._samples = -1

    def add(self, frame: av.AudioFrame, time: float) -> None:
        """Adds a frame; `time` counts from the start of the stretch."""
        self.ended = self.ended or time >= self._length
        if time < 0 or self.ended:
            return
        if self._samples < 0:
            self._samples = round(time * _SAMPLE_RATE)
        # Gaps are closed up: a preview is short, and the encoder wants none.
        frame.pts = None
        for resampled in self._resampler.resample(frame):
            self._encode(resampled)

    def _encode(self, frame: av.AudioFrame) -> None:
        frame.time_base, frame.pts = Fraction(1, _SAMPLE_RATE), self._samples
        self._samples += frame.samples
        self._output.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Writes what is left."""
        if self._samples >= 0:
            self._output.mux(self._stream.encode(None))


def main() -> None:
    """Does the job on standard input and prints its outcome."""
    limit_process(_MEMORY)
    outcome = do_job(PreviewJob(*json.loads(sys.stdin.readline())))
    if "error" in outcome:
        outcome["error"] = printable(outcome["error"])
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
