"""The feed: the same sequence wherever it starts and however it is shared."""

import numpy as np
import pytest

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.images import encode_jpeg
from data_pipelines.feeding.feed import TrainFeed, evaluation_batches
from data_pipelines.feeding.split import MemoryFrames, Split
from data_pipelines.text.buckets import bucket_length, caption_lengths, used_lengths

VIDEOS, FRAMES, CONTEXT = 22, 2, 24


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    frames = np.empty((VIDEOS, FRAMES), object)
    for v in range(VIDEOS):
        for f in range(FRAMES):
            grey = np.full((8, 8, 3), 10 * v + f, np.uint8)
            frames[v, f] = encode_jpeg(grey)
    counts = rng.integers(1, 4, VIDEOS)
    start = np.r_[0, np.cumsum(counts)]
    captions = [f"caption {i}" for i in range(start[-1])]
    ids = [f"video{v}" for v in range(VIDEOS)]
    return Split("train", ids, MemoryFrames(frames), captions, start, [{}] * VIDEOS)


@pytest.fixture(scope="module")
def caption_ids(split):
    rng = np.random.default_rng(1)
    ids = np.zeros((len(split.captions), CONTEXT), np.int32)
    for row in ids:
        row[: rng.integers(3, CONTEXT)] = 7
    return ids


def feed(split, ids, **options):
    return TrainFeed(
        split.tokenized(lambda _: ids), **{"batch_size": 4, "seed": 3, **options}
    )


def run(feed, start, stop):
    return list(feed.batches(start, stop))


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("epoch_of", ["videos", "pairs"])
def test_restart_anywhere_on_any_number_of_hosts(split, caption_ids, epoch_of, hosts):
    whole = run(feed(split, caption_ids, epoch_of=epoch_of), 0, 14)
    assert len(whole) == 14
    assert not same(whole[0], whole[1])
    start = int(np.random.default_rng().integers(1, 14))
    shares = [
        run(
            feed(
                split, caption_ids, epoch_of=epoch_of, shard_index=i, shard_count=hosts
            ),
            start,
            14,
        )
        for i in range(hosts)
    ]
    for parts, batch in zip(zip(*shares, strict=True), whole[start:], strict=True):
        for name in batch:
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(joined, batch[name], f"from step {start}")


def test_frames_and_captions_are_those_of_the_videos(split, caption_ids):
    for batch in run(feed(split, caption_ids), 0, 5):
        grey = batch["frames"][:, :, 0, 0, 0]
        expected = 10 * batch["video"][:, None] + np.arange(FRAMES)
        assert np.abs(grey.astype(int) - expected).max() <= 2
        assert (split.video_of_caption[batch["caption"]] == batch["video"]).all()
        length = batch["text_ids"].shape[1]
        np.testing.assert_array_equal(
            batch["text_ids"], caption_ids[batch["caption"], :length]
        )
        assert not caption_ids[batch["caption"], length:].any()


@pytest.mark.parametrize("epoch_of", ["videos", "pairs"])
def test_an_epoch_goes_through_everything_once(split, caption_ids, epoch_of):
    one = feed(split, caption_ids, epoch_of=epoch_of, batch_size=2)
    key = "video" if epoch_of == "videos" else "caption"
    count = VIDEOS if epoch_of == "videos" else len(split.captions)
    orders = []
    for epoch in range(2):
        steps = one.steps_per_epoch
        batches = run(one, epoch * steps, (epoch + 1) * steps)
        seen = np.concatenate([batch[key] for batch in batches])
        assert len(set(seen.tolist())) == len(seen) == count // 2 * 2
        orders.append(seen.tolist())
    assert orders[0] != orders[1]


def test_groups_stay_together(split, caption_ids):
    for batch in run(feed(split, caption_ids, group_size=2), 0, 5):
        video = batch["video"].reshape(-1, 2)
        assert (video[:, 0] % 2 == 0).all()
        assert (video[:, 1] == video[:, 0] + 1).all()


def test_captions_change_from_epoch_to_epoch(split, caption_ids):
    one = feed(split, caption_ids, batch_size=22)
    chosen = [dict(zip(b["video"], b["caption"], strict=True)) for b in run(one, 0, 6)]
    assert any(x != chosen[0] for x in chosen[1:])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 23}, "22 videos, too few for one batch of 23"),
        ({"group_size": 3}, "does not divide"),
        ({"shard_count": 3}, "does not divide"),
        ({"epoch_of": "days"}, "epoch_of"),
        ({"epoch_of": "pairs", "group_size": 2}, "group_size"),
    ],
)
def test_what_is_refused(split, caption_ids, options, says):
    with pytest.raises(UserError, match=says):
        feed(split, caption_ids, **options)


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_sees_every_video_once(split, hosts):
    shares = [list(evaluation_batches(split, 8, i, hosts)) for i in range(hosts)]
    seen = []
    for parts in zip(*shares, strict=True):
        for part in parts:
            seen += part["index"][part["mask"]].tolist()
            assert len(part["index"]) == 8 // hosts
    assert seen == list(range(VIDEOS))


def test_lengths_and_buckets():
    ids = np.array([[5, 0, 6, 0], [5, 0, 0, 0]])
    assert caption_lengths(ids).tolist() == [3, 1]
    assert bucket_length(9, 77) == 16
    assert bucket_length(77, 77) == 77
    assert bucket_length(30, 31) == 31


def test_a_length_that_few_steps_use_is_not_compiled():
    lengths = np.r_[np.full(995, 20), np.full(5, 30)]
    options = {"batch_size": 32, "limit": 77}
    # 85 % of the batches hold none of the long captions: 8 positions less each.
    assert used_lengths(lengths, steps=480, **options) == [32]
    assert used_lengths(lengths, steps=4800, **options) == [24, 32]
    # Only the next length that is used counts.
    spread = np.r_[np.full(500, 14), np.full(497, 20), np.full(3, 70)]
    assert used_lengths(spread, steps=480, **options) == [24, 77]
    assert used_lengths(spread[:997], steps=480, **options) == [24]
    assert used_lengths(np.array([3]), steps=1, **options) == [8]
    assert used_lengths(np.array([70]), steps=1, **options) == [77]
    assert used_lengths(np.array([30]), steps=1, batch_size=1, limit=31) == [31]


def test_a_short_run_pads_to_one_length_and_resumes_with_it(split, caption_ids):
    every = run(feed(split, caption_ids), 0, 12)
    made = feed(split, caption_ids, epochs=3)
    one = run(made, 0, 12)
    assert len({x["text_ids"].shape for x in every}) > 1
    assert {x["text_ids"].shape for x in one} == {(4, CONTEXT)}
    for short, padded in zip(every, one, strict=True):
        width = short["text_ids"].shape[1]
        assert np.array_equal(short["text_ids"], padded["text_ids"][:, :width])
        assert not padded["text_ids"][:, width:].any()
    assert all(same(x, y) for x, y in zip(one[7:], run(made, 7, 12), strict=True))


@pytest.mark.parametrize("epochs", [None, 3])
def test_captions_whose_padding_is_read_are_not_cut(split, caption_ids, epochs):
    ids = np.where(np.arange(CONTEXT) < 6, caption_ids, 0)
    lengths = {
        buckets: {
            batch["text_ids"].shape[1]
            for batch in run(feed(split, ids, epochs=epochs, **options), 0, 3)
        }
        for buckets, options in {"none": {"buckets": ()}, "usual": {}}.items()
    }
    assert lengths == {"none": {CONTEXT}, "usual": {8}}
