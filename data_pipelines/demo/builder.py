"""The demo as a TFDS builder: renders real mp4 files and reads them back."""

import os
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np

from data_pipelines.builder import Record, VideoBuilder
from data_pipelines.demo.clip import ClipSpec, captions_of, render_clip
from data_pipelines.demo.world import sample_clips
from data_pipelines.terminal import progress

VIDEO_SIZE = 96
FRAMES_PER_SECOND = 12


def write_video(path: Path, frames: np.ndarray) -> None:
    """Writes `uint8 [T, H, W, 3]` as an h264 mp4, whole or not at all."""
    partial = path.with_suffix(".partial.mp4")
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "fast", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    os.replace(partial, path)


class Demo(VideoBuilder, skip_registration=True):
    """Coloured shapes in motion, each clip with its time-reversed twin."""

    name = "demo"
    DESCRIPTION = "Rendered clips of shapes in motion, in groups that differ in order."

    def records(self, split: str) -> Iterable[Record]:
        """Renders the clips that are not on disk yet."""
        folder = Path(self.data_dir).parents[2] / "videos" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        clips = sample_clips()[split]
        with progress(f"rendering {split}", total=len(clips), unit="videos") as bar:
            for clip in clips:
                path = folder / f"{clip.clip_id}.mp4"
                if not path.exists():
                    write_video(path, render_clip(clip, VIDEO_SIZE))
                yield Record(clip.clip_id, path, captions(clip, split), extras(clip))
                bar.advance()


def captions(clip: ClipSpec, split: str) -> tuple[str, ...]:
    """All captions in training, one in evaluation, each form in its turn.

    A pair of twins shares its form, so that only the event's words tell them apart.
    """
    every = captions_of(clip)
    return every if split == "train" else (every[clip.group % len(every)],)


def extras(clip: ClipSpec) -> dict[str, int | str]:
    """Where the clip stands in its group."""
    return {
        "family": clip.family,
        "group": clip.group,
        "variant": clip.variant,
        "twin": clip.twin,
    }
