"""The demo's world: what its groups promise."""

import numpy as np
import pytest

from data_pipelines.datasets.demo.captions import vocabulary
from data_pipelines.datasets.demo.clip import captions_of, render_clip
from data_pipelines.datasets.demo.events import FAMILIES
from data_pipelines.datasets.demo.stills import ATTRIBUTES, sample_still_groups
from data_pipelines.datasets.demo.world import GROUP, SPLITS, sample_clips


@pytest.fixture(scope="module")
def clips():
    return sample_clips()


def test_counts_and_families(clips):
    assert {name: len(x) for name, x in clips.items()} == SPLITS
    for split in clips.values():
        assert {clip.family for clip in split} == set(FAMILIES)


def test_no_sentence_occurs_twice(clips):
    sentences = [c.sentences[0] for split in clips.values() for c in split]
    assert len(set(sentences)) == len(sentences)


def test_the_vocabulary_covers_every_caption(clips):
    words = {
        word
        for split in clips.values()
        for clip in split
        for caption in captions_of(clip)
        for word in caption.split()
    }
    words |= {
        word
        for caption in sample_still_groups(np.random.default_rng(0), 100, 8)[1]
        for word in caption.split()
    }
    assert words <= set(vocabulary())


def test_a_group_is_four_clips_that_only_order_tells_apart(clips):
    groups = clips["test"]
    # One group of every family.
    seen = {}
    for start in range(0, len(groups), GROUP):
        seen.setdefault(groups[start].family, groups[start : start + GROUP])
    for clip, twin, variant, variant_twin in seen.values():
        frames = render_clip(clip, 32)
        np.testing.assert_array_equal(frames, render_clip(twin, 32)[::-1])
        other = render_clip(variant, 32)
        np.testing.assert_array_equal(other, render_clip(variant_twin, 32)[::-1])
        np.testing.assert_array_equal(frames[-1], other[-1])
        assert not np.array_equal(frames, other)
        for a, b in ((clip, twin), (variant, variant_twin)):
            for one, two in zip(captions_of(a), captions_of(b), strict=True):
                # The same form and the same things, in other words or another order.
                assert one != two
                assert one.startswith("on a ") == two.startswith("on a ")
                assert one.endswith("background") == two.endswith("background")


def test_the_same_seed_gives_the_same_clips(clips):
    assert sample_clips(0)["test"] == clips["test"]
    assert sample_clips(1)["test"] != clips["test"]


def test_stills_come_in_groups_with_the_attributes_they_name():
    images, captions, attributes = sample_still_groups(np.random.default_rng(1), 30, 16)
    assert images.shape == (120, 16, 16, 3)
    assert len(captions) == 120
    for name, count in ATTRIBUTES.items():
        assert attributes[name].min() >= -1
        assert attributes[name].max() < count
