"""Order of time: words swapped, videos reversed, against a plain reference."""

import json
import re
import types

import numpy as np
import pytest

from vop_jax.model.embedder import Embedder
from vop_jax.scoring.metrics import retrieval_metrics
from vop_jax.scoring.order_words import OTHER, PAIRS, swapped, swapped_captions
from vop_jax.scoring.time_order import show, time_order


@pytest.mark.parametrize(
    ("caption", "changed"),
    [
        ("a man sits before he eats", "a man sits after he eats"),
        ("First she opens a box.", "Then she closes a box."),
        ("it appears, then it grows", "it disappears, first it shrinks"),
        ("a dog on the left", None),
        ("beforehand, the opener thens", None),
        ("", None),
    ],
)
def test_words_of_order_are_swapped(caption, changed):
    assert swapped(caption) == changed
    if changed is not None:
        assert swapped(changed) == caption


def test_the_table_is_one_to_one():
    assert len(OTHER) == 2 * len(PAIRS)
    assert all(OTHER[OTHER[word]] == word for word in OTHER)
    assert all(re.fullmatch("[a-z]+", word) for word in OTHER)


def test_only_captions_with_an_order_are_asked_again():
    captions = ["a cat", "a cat leaves", "Open the door", "a red ball"]
    assert swapped_captions(captions) == ([1, 2], ["a cat enters", "Close the door"])
    assert swapped_captions(["a cat"]) == ([], [])


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def problem():
    """Features of 30 captions of 12 videos, in which order has a say."""
    rng = np.random.default_rng(0)
    videos = unit(rng, 12, 16)
    right = np.sort(np.arange(30) % 12)
    texts = videos[right] + 0.6 * unit(rng, 30, 16)
    rows = np.arange(0, 30, 3)
    return {
        "texts": texts / np.linalg.norm(texts, axis=1, keepdims=True),
        "videos": videos,
        "reversed_videos": videos + 0.8 * unit(rng, 12, 16),
        "video_of_text": right,
        "rows": rows,
        "swapped_texts": texts[rows] + 1.5 * unit(rng, len(rows), 16),
        "ties": "mean",
    }


def test_the_metrics_are_those_of_plain_loops(problem):
    found = time_order(**problem)
    texts, videos = problem["texts"], problem["videos"]
    right, rows = problem["video_of_text"], problem["rows"]
    backwards, changed = problem["reversed_videos"], problem["swapped_texts"]
    expected = retrieval_metrics(texts @ backwards.T, right)
    for way, metrics in expected.items():
        assert found["reversed_videos"][way] == pytest.approx(metrics)
    won = [t @ videos[v] > t @ backwards[v] for t, v in zip(texts, right, strict=True)]
    assert found["reversed_videos"]["preferred"] == pytest.approx(100 * np.mean(won))
    assert 50 < 100 * np.mean(won) < 100
    part = found["swapped_captions"]
    assert part["captions"] == len(rows)
    for name, asked in (("as_written", texts[rows]), ("swapped", changed)):
        # Videos that no caption of an order describes stay candidates.
        expected = retrieval_metrics(asked @ videos.T, right[rows])["t2v"]
        assert part[name] == pytest.approx(expected)
    won = [
        texts[row] @ videos[right[row]] > other @ videos[right[row]]
        for row, other in zip(rows, changed, strict=True)
    ]
    assert part["preferred"] == pytest.approx(100 * np.mean(won))
    json.dumps(found)


def test_who_sees_no_order_has_50_and_the_same_metrics(problem):
    """Negative control: the same features, but for the rounding of another sum."""
    rng = np.random.default_rng(1)
    noise = 1e-7 * rng.normal(size=problem["videos"].shape).astype(np.float32)
    problem["reversed_videos"] = problem["videos"] + noise
    problem["swapped_texts"] = problem["texts"][problem["rows"]]
    found = time_order(**problem)
    plain = problem["texts"] @ problem["videos"].T
    expected = retrieval_metrics(plain, problem["video_of_text"])
    assert found["reversed_videos"] == {**expected, "preferred": 50.0}
    part = found["swapped_captions"]
    assert part["preferred"] == 50.0
    assert part["as_written"] == part["swapped"]


def test_a_set_without_words_of_order(problem, capsys):
    problem |= {"rows": np.zeros(0, np.int64), "swapped_texts": problem["texts"][:0]}
    found = time_order(**problem)
    assert found["swapped_captions"] == {"captions": 0}
    show(found, {"t2v": {"R@1": 12.5}})
    out = capsys.readouterr().out
    assert "videos reversed" in out
    assert "12.5" in out
    assert "order swapped" not in out


def test_the_frames_of_reversed_videos_come_in_reverse(monkeypatch):
    """The first frame's pixels stand for an embedding of it."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 2, 2, 3), np.uint8)
    monkeypatch.setattr(
        "data_pipelines.feeding.feed.evaluation_batches",
        lambda *_: [{"frames": frames}],
    )
    monkeypatch.setattr(
        Embedder,
        "_run",
        lambda *given: given[-1][:, 0].reshape(len(given[-1]), -1).astype(np.float32),
    )
    embedder = object.__new__(Embedder)
    embedder._batch_multiple, embedder.embed_videos = 1, None
    split = types.SimpleNamespace(video_ids=["a", "b", "c"])
    for backwards, place in ((False, 0), (True, 3)):
        found = embedder.videos({}, split, 3, backwards=backwards)
        np.testing.assert_array_equal(found, frames[:, place].reshape(3, -1))
    found = embedder.videos({}, split, 3, 2)
    np.testing.assert_array_equal(found, frames[:, 2].reshape(3, -1))
