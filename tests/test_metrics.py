"""Metrics against slow, obvious definitions."""

import numpy as np
import pytest

from data_pipelines.errors import UserError
from vop_jax.metrics import pair_accuracy, retrieval_metrics, text_ranks

SHARES = {"mean": 0.5, "optimistic": 0.0, "pessimistic": 1.0}


def slow_rank(row, right, others, ties):
    greater = sum(1 for i in others if row[i] > row[right])
    equal = sum(1 for i in others if row[i] == row[right])
    return 1 + greater + SHARES[ties] * equal


def matrix(kind, texts, videos, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "tied":
        return rng.integers(0, 4, (texts, videos)).astype(np.float32)
    return rng.normal(size=(texts, videos)).astype(np.float32)


def check(figures, ranks):
    ranks = np.array(ranks)
    assert figures["MnR"] == pytest.approx(ranks.mean(), rel=1e-6)
    assert figures["MdR"] == pytest.approx(np.median(ranks))
    for k in (1, 5, 10):
        assert figures[f"R@{k}"] == pytest.approx(100 * (ranks <= k).mean())


@pytest.mark.parametrize("ties", SHARES)
@pytest.mark.parametrize("kind", ["random", "tied"])
def test_one_caption_a_video(kind, ties):
    similarity = matrix(kind, 40, 40)
    results = retrieval_metrics(similarity, ties=ties)
    for way, scores in (("t2v", similarity), ("v2t", similarity.T)):
        ranks = [
            slow_rank(row, i, [j for j in range(40) if j != i], ties)
            for i, row in enumerate(scores)
        ]
        check(results[way], ranks)
    assert "v2t_best_caption" not in results


@pytest.mark.parametrize("ties", SHARES)
@pytest.mark.parametrize("kind", ["random", "tied"])
def test_several_captions_a_video(kind, ties):
    similarity = matrix(kind, 30, 9)
    video_of_text = np.sort(np.r_[np.arange(9), np.arange(21) % 9])
    results = retrieval_metrics(similarity, video_of_text, ties)
    videos = range(9)
    t2v = [
        slow_rank(row, right, [j for j in videos if j != right], ties)
        for row, right in zip(similarity, video_of_text, strict=True)
    ]
    check(results["t2v"], t2v)
    collapsed = [
        [max(similarity[video_of_text == w, v]) for w in videos] for v in videos
    ]
    v2t = [
        slow_rank(row, v, [w for w in videos if w != v], ties)
        for v, row in enumerate(collapsed)
    ]
    check(results["v2t"], v2t)
    best = []
    for v in videos:
        own = [t for t in range(30) if video_of_text[t] == v]
        others = [t for t in range(30) if video_of_text[t] != v]
        right = max(own, key=lambda t: similarity[t, v])
        best.append(slow_rank(similarity[:, v], right, others, ties))
    check(results["v2t_best_caption"], best)


def test_clip4clip_counts_a_query_once_per_tie():
    similarity = np.array([[1, 1, 0], [0, 1, 2], [3, 3, 3]], np.float32)
    ranks = text_ranks(similarity, np.arange(3), "clip4clip")
    # As that system has it: where sorted row minus own similarity is zero.
    expected = [
        place + 1
        for i, row in enumerate(similarity)
        for place, value in enumerate(sorted(row, reverse=True))
        if value == similarity[i, i]
    ]
    assert sorted(ranks.tolist()) == sorted(expected)


def test_pairs():
    similarity = np.array([[3, 1], [2, 2]], np.float32)
    t2v, v2t = pair_accuracy(similarity, np.array([1, 0]))
    assert t2v.tolist() == [1, 0.5]
    assert v2t.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("similarity", "video_of_text", "ties", "says"),
    [
        (np.ones(3), None, "mean", "matrix"),
        (np.ones((3, 2)), None, "mean", "which video"),
        (np.ones((3, 2)), [0, 1, 2], "mean", "number of one of 2"),
        (np.ones((3, 2)), [0, 1], "mean", "each of 3"),
        (np.full((2, 2), np.nan), None, "mean", "finite"),
        (np.ones((2, 2)), None, "lucky", "ties is"),
    ],
)
def test_what_is_refused(similarity, video_of_text, ties, says):
    with pytest.raises(UserError, match=says):
        retrieval_metrics(similarity, video_of_text, ties)
