"""A model that knows colours and nothing else, and small videos of one colour."""

import time
from pathlib import Path

import numpy as np

from data_pipelines.datasets.demo.video_file import write_video
from data_pipelines.decoding.frames import VideoError, decode_uniform
from data_pipelines.decoding.images import resize_frame
from data_pipelines.decoding.moments import Moment, VideoEnd

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


def write_colour(path, colour):
    """A video of a few frames, of a colour by name or by value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = COLOURS.get(colour, colour)
    write_video(path, np.full((4, 32, 32, 3), value, np.uint8))
    return path


class ColourModel:
    """Embeds a video as its mean colour, a text as the colours it names.

    Args:
        fail_at: the number of the batch whose encoding fails, with `error`.
        pause: seconds that every batch behind the second takes.
    """

    image_size, dtype = 32, "float32"

    def __init__(
        self, fingerprint="c0", num_frames=2, fail_at=None, error=MemoryError, pause=0
    ):
        self.fingerprint, self.num_frames = fingerprint, num_frames
        self.fail_at, self.error, self.pause = fail_at, error, pause
        self.read, self.batches = [], []

    def read_video(self, path):
        frames = decode_uniform(path, self.num_frames).frames
        self.read.append(Path(path).name)
        return np.stack([resize_frame(x, self.image_size) for x in frames])

    def read_moments(self, paths, seconds, ahead, cut):
        for place, path in enumerate(paths):
            try:
                moments = list(self.moments_of(path, seconds))
                yield from ((place, moment) for moment in moments)
                end = moments[-1].end
                yield place, VideoEnd("", "", (), end, 32, 32, len(moments))
            except VideoError as error:
                yield place, VideoEnd(error.status, str(error))

    def moments_of(self, path, seconds):
        yield Moment(0.0, 0.5, self.read_video(path))

    def encode_videos(self, frames):
        if len(self.batches) == self.fail_at:
            raise self.error
        self.batches.append(len(frames))
        if len(self.batches) > 2:
            time.sleep(self.pause)
        colour = frames.mean(axis=(2, 3), dtype=np.float32)
        return (colour / np.linalg.norm(colour, axis=-1, keepdims=True)).mean(axis=1)

    def compile_texts(self):
        pass

    def encode_texts(self, texts):
        values = [
            [float(name in text) for name in COLOURS] if text else [0.0] * 3
            for text in texts
        ]
        return np.asarray(values, np.float32)
