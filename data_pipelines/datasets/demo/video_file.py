"""Writes a clip as an mp4 file."""

from pathlib import Path

import av
import numpy as np

from data_pipelines.files.replacing import replacing_file

FRAMES_PER_SECOND = 12


def write_video(path: Path, frames: np.ndarray) -> None:
    """Writes `uint8 [T, H, W, 3]` as an H.264 mp4, atomically."""
    with replacing_file(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "fast", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
