"""Prepared splits: in memory or on disk the same, damaged ones named."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from films import custom_set
from preparations import InProcess

from data_pipelines.console.errors import UserError
from data_pipelines.feeding.augmentation import Augmentation
from data_pipelines.feeding.feed import TrainFeed, evaluation_batches
from data_pipelines.feeding.loading import load_data
from data_pipelines.feeding.split import hold_out, load_split
from data_pipelines.preparing import prepare as module

FRAMES, VIDEOS = 4, 9


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    source = custom_set(tmp_path_factory.mktemp("set"), train=VIDEOS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Workers", InProcess)
        return module.prepare(
            "custom",
            source / "out",
            videos=source / "videos",
            annotations=source / "rows.csv",
            num_frames=FRAMES,
            image_size=16,
        )


def batches(split, steps=5, **options):
    split = split.tokenized(lambda texts: np.ones((len(texts), 3), np.int32))
    made = TrainFeed(split, **{"batch_size": 4, "seed": 1, **options})
    return list(made.batches(0, steps))


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("num_frames", [FRAMES, 2])
def test_what_does_not_fit_into_memory_is_fed_the_same(prepared, num_frames):
    memory = load_split(prepared, "train", num_frames)
    disk = load_split(prepared, "train", num_frames, max_bytes=100)
    assert type(memory.frames) is not type(disk.frames)
    for name in ("video_ids", "captions", "extras"):
        assert getattr(memory, name) == getattr(disk, name)
    assert_same(batches(memory), batches(disk))
    assert_same(evaluation_batches(memory, 4), evaluation_batches(disk, 4))
    assert [disk.frames[i] for i in range(VIDEOS)] == [
        memory.frames[i] for i in range(VIDEOS)
    ]
    some = np.array([7, 0, 3])
    few = memory.take(some), disk.take(some)
    assert few[0].video_ids == [memory.video_ids[i] for i in some]
    assert few[0].captions == [
        caption
        for i in some
        for caption in memory.captions[
            memory.caption_start[i] : memory.caption_start[i + 1]
        ]
    ]
    assert_same(*(evaluation_batches(x, 2) for x in few))


def test_fewer_frames_are_chosen_uniformly_from_more(prepared):
    (all_frames,) = evaluation_batches(load_split(prepared, "train"), VIDEOS)
    (two,) = evaluation_batches(load_split(prepared, "train", 2), VIDEOS)
    np.testing.assert_array_equal(two["frames"], all_frames["frames"][:, [0, 2]])
    with pytest.raises(UserError, match=r"holds 4 frames .*fewer than 5; .*frames=5"):
        load_split(prepared, "train", 5)


def test_held_out_videos_depend_on_their_ids_alone(prepared):
    train = load_split(prepared, "train")
    held = hold_out(train, 500)
    # Never more than a tenth, but one at least.
    assert len(held.validation.video_ids) == 1
    assert held.validation.name == "validation"
    assert len(held.validation.captions) == 1
    together = held.train.video_ids + held.validation.video_ids
    assert sorted(together) == sorted(train.video_ids)
    turned = hold_out(train.take(np.arange(VIDEOS)[::-1]), 500)
    assert turned.validation.video_ids == held.validation.video_ids
    kept = hold_out(train, 500, keep=True)
    assert kept.train is train
    assert kept.validation.video_ids == held.validation.video_ids


def test_augmentation_is_off_keyed_and_alike_over_a_video(prepared):
    split = load_split(prepared, "train", 2)
    plain = batches(split)
    assert_same(plain, batches(split, augmentation=Augmentation()))
    varied = Augmentation(flip=True, crop=0.3, jitter=True)
    one = batches(split, augmentation=varied)
    assert_same(one, batches(split, augmentation=varied))
    # The order is the same, only the pixels are not.
    assert_same(
        [{"video": batch["video"]} for batch in plain],
        [{"video": batch["video"]} for batch in one],
    )
    assert any(
        not np.array_equal(a["frames"], b["frames"])
        for a, b in zip(plain, one, strict=True)
    )
    halves = [
        batches(split, augmentation=varied, shard_index=i, shard_count=2)
        for i in range(2)
    ]
    for whole, *parts in zip(one, *halves, strict=True):
        joined = np.concatenate([part["frames"] for part in parts])
        np.testing.assert_array_equal(joined, whole["frames"])


def test_each_augmentation_does_what_it_says():
    import tensorflow as tf

    from data_pipelines.feeding.augmentation import augment, pick_frames

    frames = np.zeros((2, 8, 8, 3), np.uint8)
    frames[:, :, :4] = 200
    keys = [tf.constant([1, i], tf.int64) for i in range(40)]

    def varied(**options):
        how = Augmentation(**options)
        return [augment(tf.constant(frames), how, key).numpy() for key in keys]

    flipped = varied(flip=True)
    mirrored = [np.array_equal(x, frames[:, :, ::-1]) for x in flipped]
    straight = [np.array_equal(x, frames) for x in flipped]
    assert all(a != b for a, b in zip(mirrored, straight, strict=True))
    assert 10 < sum(mirrored) < 30
    cropped = varied(crop=0.25)
    assert all(x.shape == frames.shape for x in cropped)
    np.testing.assert_array_equal([x[0] for x in cropped], [x[1] for x in cropped])
    # Some have lost more of the light half, some more of the dark one.
    means = [x.mean() for x in cropped]
    assert min(means) < 90
    assert max(means) > 110
    jitter = Augmentation(jitter=True)
    picked = np.array([pick_frames(9, 3, jitter, key).numpy() for key in keys])
    assert (picked // 3 == np.arange(3)).all()
    assert len(np.unique(picked)) == 9
    assert pick_frames(9, 3, Augmentation(), keys[0]).numpy().tolist() == [1, 4, 7]


def damaged(prepared, tmp_path, change):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in prepared.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (shard,) = copy.glob("*-train.tfrecord*")
    change(shard)
    return copy, shard


def flip_a_byte(shard):
    content = bytearray(shard.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    shard.write_bytes(content)


def cut(shard):
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])


def cut_between_records(shard):
    content = shard.read_bytes()
    shard.write_bytes(content[: 16 + int.from_bytes(content[:8], "little")])


@pytest.mark.parametrize("change", [flip_a_byte, cut, cut_between_records, Path.unlink])
@pytest.mark.parametrize("max_bytes", [0, 1e9])
def test_a_damaged_shard_is_named(prepared, tmp_path, change, max_bytes):
    copy, shard = damaged(prepared, tmp_path, change)
    with pytest.raises(UserError, match=shard.name) as error:
        load_split(copy, "train", max_bytes=max_bytes)
    assert "\n" not in str(error.value)


def records(content):
    found, position = [], 0
    while position < len(content):
        end = position + 16 + int.from_bytes(content[position : position + 8], "little")
        found.append(content[position:end])
        position = end
    return found


def repeat_the_first(shard):
    first, *others = records(shard.read_bytes())
    shard.write_bytes(b"".join([first, *others[:-1], first]))


def turn_around(shard):
    shard.write_bytes(b"".join(reversed(records(shard.read_bytes()))))


@pytest.mark.parametrize("change", [repeat_the_first, turn_around])
def test_records_of_another_preparation_are_noticed(prepared, tmp_path, change):
    """Each of them is intact, and there are as many as there should be."""
    place = tmp_path / f"{FRAMES}x16" / "custom" / prepared.name
    place.parent.mkdir(parents=True)
    copy, shard = damaged(prepared, tmp_path, lambda _: None)
    copy.rename(place)

    def read():
        return load_data(
            "custom",
            str(tmp_path),
            num_frames=FRAMES,
            image_size=16,
            tokenize=lambda texts: np.ones((len(texts), 3), np.int32),
            splits=["train"],
        )

    assert len(read().splits["train"].video_ids) == VIDEOS
    change(place / shard.name)
    with pytest.raises(UserError, match="records of train are not those"):
        read()
    # What has no provenance, as shards of others, cannot be compared.
    (place / "provenance.json").unlink()
    read()


def test_a_shard_that_breaks_during_training_is_named(prepared, tmp_path):
    copy, shard = damaged(prepared, tmp_path, lambda _: None)
    split = load_split(copy, "train", max_bytes=0)
    flip_a_byte(shard)
    with pytest.raises(UserError, match=rf"{shard.name} is damaged \(corrupted record"):
        batches(split, 20)
    # Without the files to look at, the library's own error is not swallowed.
    with pytest.raises(Exception, match="corrupted record"):
        batches(dataclasses.replace(split, files=()), 20)
