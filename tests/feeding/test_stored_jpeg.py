"""What stands in a shard in a frame's place: refused before memory is taken for it."""

import numpy as np
import pytest
import tensorflow as tf

from data_pipelines.console.errors import UserError
from data_pipelines.feeding.feed import TrainFeed, evaluation_batches
from data_pipelines.feeding.split import MemoryFrames, Split
from data_pipelines.feeding.stored_jpeg import decode_frames

SIDE, FRAMES, VIDEOS = 16, 2, 3


def jpeg(height=SIDE, width=SIDE):
    return tf.io.encode_jpeg(np.zeros((height, width, 3), np.uint8)).numpy()


def stating(height, width):
    """A frame whose header states another size than it has."""
    whole = bytearray(jpeg())
    place = whole.index(b"\xff\xc0") + 5
    whole[place : place + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(whole)


def split_with(frame, side=SIDE):
    encoded = np.full((VIDEOS, FRAMES), jpeg(), object)
    encoded[1, 1] = frame
    names, captions = [f"v{i}" for i in range(VIDEOS)], ["a"] * VIDEOS
    return Split(
        "test",
        names,
        MemoryFrames(encoded),
        captions,
        np.arange(VIDEOS + 1),
        [{}] * VIDEOS,
        image_size=side,
    )


def fed(split):
    split = split.tokenized(lambda texts: np.ones((len(texts), 3), np.int32))
    return list(TrainFeed(split, batch_size=VIDEOS, seed=0).batches(0, 1))


def evaluated(split):
    return list(evaluation_batches(split, VIDEOS))


OTHERS = {
    "gigapixels": lambda: stating(60_000, 60_000),
    "a larger frame": lambda: jpeg(SIDE, 2 * SIDE),
    "a smaller frame": lambda: jpeg(SIDE // 2, SIDE // 2),
    "nothing": lambda: b"",
    "text": lambda: b"no frame",
    "a PNG": lambda: tf.io.encode_png(np.zeros((SIDE, SIDE, 3), np.uint8)).numpy(),
    "a frame cut short": lambda: jpeg()[:-40],
}


@pytest.mark.parametrize("read", [fed, evaluated])
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_frame_of_the_stated_size_is_named_with_its_video(name, read):
    assert read(split_with(jpeg()))[0]["frames"].shape == (VIDEOS, FRAMES, 16, 16, 3)
    with pytest.raises(
        UserError, match=r"test is damaged .the frames of 'v1'"
    ) as error:
        read(split_with(OTHERS[name]()))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_stated_size_is_refused_before_the_frame_is_decoded(monkeypatch):
    monkeypatch.setattr(tf.io, "decode_jpeg", None)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not of 16 pixels"):
        decode_frames([stating(60_000, 60_000)], 1, SIDE)
