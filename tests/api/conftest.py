"""A small model and films of its own, for what the Python surface takes."""

import numpy as np
import pytest

from data_pipelines.datasets.demo.video_file import write_video
from vop_jax.api import load


@pytest.fixture(scope="package")
def model():
    return load("demo", num_frames=2)


@pytest.fixture(scope="package")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for i in range(5):
        write_video(folder / f"{i}.mp4", rng.integers(0, 256, (8, 64, 80, 3), np.uint8))
    return sorted(folder.iterdir())


@pytest.fixture(scope="package")
def frames(model, paths):
    return np.stack([model.read_video(path) for path in paths])


@pytest.fixture(scope="package")
def features(model, frames):
    return model.encode_videos(frames)
