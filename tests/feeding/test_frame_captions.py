"""Captions of frames: where they come from, and how they reach a batch."""

import json

import numpy as np
import pytest
from own_time import at_most

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.images import encode_jpeg
from data_pipelines.feeding.augmentation import Augmentation
from data_pipelines.feeding.feed import TrainFeed
from data_pipelines.feeding.frame_captions import (
    read_frame_captions,
    with_frame_captions,
    without_frame_captions,
)
from data_pipelines.feeding.split import MemoryFrames, Split

VIDEOS, STORED = 6, 4


def tokenize(captions):
    """A caption `v g` has the ids 1, v + 10, g + 10, 2."""
    ids = np.zeros((len(captions), 20), np.int32)
    for row, caption in zip(ids, captions, strict=True):
        row[:4] = [1, *(int(word) + 10 for word in caption.split()), 2]
    return ids


CAPTIONS = {f"v{v}": [f"{v} {g}" for g in range(STORED)] for v in range(VIDEOS)}


@pytest.fixture(scope="module")
def split():
    frames = np.empty((VIDEOS, STORED), object)
    for v in range(VIDEOS):
        for g in range(STORED):
            # Its brightness says which frame it is.
            grey = np.full((8, 8, 3), 40 * v + 10 * g, np.uint8)
            frames[v, g] = encode_jpeg(grey)
    ids = [f"v{v}" for v in range(VIDEOS)]
    captions = [f"{v} 0" for v in range(VIDEOS)]
    plain = Split(
        *("train", ids, MemoryFrames(frames), captions),
        *(np.arange(VIDEOS + 1), [{}] * VIDEOS),
        num_frames=2,
    )
    return plain.tokenized(tokenize)


@pytest.mark.parametrize("jitter", [False, True])
def test_each_frame_of_a_batch_has_its_own_caption(split, jitter):
    described = with_frame_captions(split, CAPTIONS, tokenize)
    # Padded to the shortest bucket that holds all of them.
    assert described.frame_ids.shape == (VIDEOS, STORED, 8)
    feed = TrainFeed(
        described, batch_size=3, seed=0, augmentation=Augmentation(jitter=jitter)
    )
    seen = set()
    for batch in feed.batches(0, 8):
        ids, frames = batch["frame_ids"], batch["frames"]
        assert ids.shape == (3, 2, 8)
        stored = np.round((frames.mean((2, 3, 4)) - 40 * batch["video"][:, None]) / 10)
        assert (ids[..., 1] == batch["video"][:, None] + 10).all()
        np.testing.assert_array_equal(ids[..., 2], stored + 10)
        seen |= set(stored[:, 0])
    assert len(seen) == (2 if jitter else 1)


def test_a_batch_has_them_only_where_they_are_wanted(split):
    batch = next(iter(TrainFeed(split, batch_size=3, seed=0).batches(0, 1)))
    assert "frame_ids" not in batch
    described = with_frame_captions(split, CAPTIONS, tokenize, whole=True)
    assert described.frame_ids.shape == (VIDEOS, STORED, 20)
    part = described.take(np.array([4, 1]))
    np.testing.assert_array_equal(part.frame_ids[:, 0, 1], [14, 11])
    feed = TrainFeed(without_frame_captions(described), batch_size=3, seed=0)
    assert "frame_ids" not in next(iter(feed.batches(0, 1)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"v3": None}, "video v3 has none for its 4 frames"),
        ({"v3": ["3 0"]}, "video v3 has 1 for its 4 frames"),
        ({"v3": ["3 0", "3 1", " ", "3 3"]}, "video v3 has an empty one"),
    ],
)
def test_captions_that_do_not_fit_are_one_line(split, change, says):
    given = {k: x for k, x in (CAPTIONS | change).items() if x is not None}
    with pytest.raises(UserError, match=says):
        with_frame_captions(split, given, tokenize)


def test_they_come_from_a_file(tmp_path, split):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(CAPTIONS))
    found = read_frame_captions(str(path), "custom", STORED)
    described = with_frame_captions(split, found, tokenize)
    np.testing.assert_array_equal(described.frame_ids[2, 3, :4], [1, 12, 13, 2])
    path.write_text(json.dumps({"v0": ["a", 3]}))
    with pytest.raises(UserError, match=r"captions\.json.*v0"):
        read_frame_captions(str(path), "custom", STORED)
    with pytest.raises(UserError, match=r"none\.json"):
        read_frame_captions(str(tmp_path / "none.json"), "custom", STORED)


@pytest.mark.parametrize("mistakes", ['{"a": [' + "1," * 500_000 + "1]}", None])
def test_a_million_mistakes_are_one(tmp_path, mistakes):
    many = {f"v{i}": 1 for i in range(200_000)}
    (path := tmp_path / "many.json").write_text(mistakes or json.dumps(many))
    says = r"many\.json: what .* has is no list of cap"
    with at_most(1.5), pytest.raises(UserError, match=says):
        read_frame_captions(str(path), "custom", STORED)


def test_only_a_rendered_data_set_knows_them_itself():
    with pytest.raises(UserError, match="custom does not tell what its frames show"):
        read_frame_captions("exact", "custom", STORED)
