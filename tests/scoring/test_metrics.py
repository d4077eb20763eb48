"""Metrics against slow, obvious definitions."""

import itertools
import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from slow_metrics import SHARES, matrix, slow_ranks, slow_ways

from data_pipelines.console.errors import UserError
from vop_jax.scoring import blocks
from vop_jax.scoring.event_order import order_accuracies, pair_accuracy
from vop_jax.scoring.metrics import retrieval_counts, retrieval_metrics
from vop_jax.scoring.ties import TIES


@pytest.fixture(params=[1 << 18, 64, 1], ids=lambda size: f"blocks of {size}")
def block(request, monkeypatch):
    monkeypatch.setattr(blocks, "VALUES", request.param)


def check(figures, per_query):
    expected = np.array(list(itertools.chain(*per_query)))
    assert figures["MnR"] == pytest.approx(expected.mean(), rel=1e-6)
    assert figures["MdR"] == pytest.approx(np.median(expected))
    for k in (1, 5, 10):
        assert figures[f"R@{k}"] == pytest.approx(100 * (expected <= k).mean())
    gained = [1 / math.log2(1 + rank) for rank in expected if rank <= 10]
    assert figures["nDCG@10"] == pytest.approx(100 * sum(gained) / len(expected))


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("kind", ["random", "tied"])
def test_one_caption_a_video(block, kind, ties):
    similarity = matrix(kind, 40, 40)
    results = retrieval_metrics(similarity, ties=ties)
    for way, scores in (("t2v", similarity), ("v2t", similarity.T)):
        expected = [
            slow_ranks(row, i, [j for j in range(40) if j != i], ties)
            for i, row in enumerate(scores)
        ]
        check(results[way], expected)
    assert set(results) == {"t2v", "v2t"}


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("videos_with_text", [9, 6])
def test_several_captions_a_video(block, kind, ties, videos_with_text):
    similarity = matrix(kind, 30, 9)
    rng = np.random.default_rng(1)
    asked = np.sort(rng.permutation(9)[:videos_with_text])
    video_of_text = rng.permutation(np.resize(asked, 30))
    results = retrieval_metrics(similarity, video_of_text, ties)
    ways = slow_ways(similarity, video_of_text, ties)
    assert results.keys() == ways.keys()
    for way, (per_query, _) in ways.items():
        check(results[way], per_query)


def slow_ndcg(scores, relevant, most):
    """By its definition: the gain of the sorted list, over that of an ideal one."""
    found = [relevant[i] for i in np.argsort(-scores, kind="stable")][:most]
    ideal = sorted(relevant, reverse=True)[:most]
    gained, best = (
        sum(x / math.log2(place + 2) for place, x in enumerate(row))
        for row in (found, ideal)
    )
    return gained / best


def test_ndcg_is_that_of_the_sorted_lists():
    similarity, right = matrix("random", 60, 40), np.arange(60) % 40
    results = retrieval_metrics(similarity, right)
    expected = [
        slow_ndcg(row, np.arange(40) == own, 10)
        for row, own in zip(similarity, right, strict=True)
    ]
    assert results["t2v"]["nDCG@10"] == pytest.approx(100 * np.mean(expected))
    # Some answers are not among the first ten, and an 11th gives nothing.
    assert 0 in expected
    one = np.zeros((1, 12), np.float32)
    one[0] = np.arange(12, 0, -1)
    for rank in (1, 2, 10, 11):
        value = retrieval_metrics(one, [rank - 1])["t2v"]["nDCG@10"]
        wanted = 100 / math.log2(1 + rank) if rank <= 10 else 0
        assert value == pytest.approx(wanted)


def test_a_map_that_shuffles_is_the_shuffled_matrix():
    similarity = matrix("tied", 12, 12)
    order = np.random.default_rng(3).permutation(12)
    assert retrieval_metrics(similarity[order], order) == retrieval_metrics(similarity)


def test_videos_that_nobody_describes_are_only_found():
    similarity = np.array([[1, 0, 2], [0, 3, 1]], np.float32)
    results = retrieval_metrics(similarity, np.array([0, 1]))
    assert results["t2v"]["MnR"] == 1.5
    assert results["v2t"]["MnR"] == 1
    assert "v2t_best_caption" not in results


@pytest.mark.parametrize("ties", SHARES)
def test_ranks_in_the_order_of_the_texts(block, ties):
    similarity = matrix("tied", 10, 4)
    video_of_text = np.arange(10) % 4
    expected = [
        slow_ranks(row, right, [j for j in range(4) if j != right], ties)[0]
        for row, right in zip(similarity, video_of_text, strict=True)
    ]
    found = retrieval_counts(similarity, video_of_text)["t2v"].ranks(ties)
    assert found.dtype == np.float32
    assert found.tolist() == expected


@pytest.mark.parametrize("kind", ["random", "tied"])
def test_clip4clip_is_what_that_system_computes(block, kind):
    similarity = matrix(kind, 20, 20)
    results = retrieval_metrics(similarity, ties="clip4clip")
    for way, scores in (("t2v", similarity), ("v2t", similarity.T)):
        # That system finds the right item where the sorted row, less the similarity
        # of the right item, is zero.
        away = np.sort(-scores, axis=1) - np.diag(-scores)[:, None]
        place = np.where(away == 0)[1]
        assert len(place) > 20 or kind == "random"
        for k in (1, 5, 10):
            expected = 100 * np.sum(place < k) / len(place)
            assert results[way][f"R@{k}"] == pytest.approx(expected)
        assert results[way]["MdR"] == np.median(place) + 1
        assert results[way]["MnR"] == pytest.approx(np.mean(place) + 1)


def test_comparison_is_in_float32():
    near = np.array([[1, 1 + 1e-12], [0, 1]])
    assert retrieval_counts(near)["t2v"].ranks("mean").tolist() == [1.5, 1]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, bool])
def test_other_numbers_are_welcome(dtype):
    assert retrieval_metrics(np.eye(3, dtype=dtype))["t2v"]["R@1"] == 100


def test_a_large_matrix_is_not_copied():
    similarity = matrix("random", 3000, 1500).astype(np.float64)
    video_of_text = np.repeat(np.arange(1500), 2)
    tracemalloc.start()
    try:
        retrieval_metrics(similarity, video_of_text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < similarity.size * 4


def test_the_input_is_left_as_it_was():
    similarity = matrix("random", 6, 6)
    before = similarity.copy()
    similarity.flags.writeable = False
    retrieval_metrics(similarity)
    np.testing.assert_array_equal(similarity, before)


def test_jax_is_not_needed():
    source = "import sys, vop_jax.scoring.metrics; sys.exit('jax' in sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", source], cwd=root, check=True, timeout=60)


def test_pairs():
    similarity = np.array([[3, 1], [2, 2]], np.float32)
    t2v, v2t = pair_accuracy(similarity, np.array([1, 0]))
    assert t2v.tolist() == [1, 0.5]
    assert v2t.tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("order", ["twins", "same_end"])
def test_twins_and_same_ends(kind, order):
    rng = np.random.default_rng(2)
    clips = list(itertools.product(range(5), (0, 1), (0, 1)))
    clips = [clips[i] for i in rng.permutation(len(clips))]
    family = ["turn" if group < 2 else "move" for group, _, _ in clips]
    similarity = matrix(kind, 20, 20)

    def score(own, other):
        return 1 if own > other else 0.5 if own == other else 0

    t2v, v2t = [], []
    for i, (group, variant, twin) in enumerate(clips):
        wanted = (group, variant, 1 - twin)
        if order == "same_end":
            wanted = (group, 1 - variant, twin)
        j = clips.index(wanted)
        t2v.append(score(similarity[i, i], similarity[i, j]))
        v2t.append(score(similarity[i, i], similarity[j, i]))
    group, variant, twin = zip(*clips, strict=True)
    results = order_accuracies(similarity, group, variant, twin, family)[order]
    assert results["t2v"] == pytest.approx(100 * np.mean(t2v))
    assert results["v2t"] == pytest.approx(100 * np.mean(v2t))
    assert set(results["families"]) == {"turn", "move"}
    for name, found in results["families"].items():
        both = [
            (a + b) / 2 for a, b, of in zip(t2v, v2t, family, strict=True) if of == name
        ]
        assert found == pytest.approx(100 * np.mean(both))


@pytest.mark.parametrize(
    ("group", "twin", "family", "size", "says"),
    [
        ([0, 0], [0, 1], ["a", "a"], 3, r"shape \[3, 3\]"),
        ([0, 1], [0, 1], ["a", "a"], 2, "no clip of group 0 has twin 1"),
        ([0, 0], [0, 0], ["a", "a"], 2, "two clips"),
        ([0, 0], [0], ["a", "a"], 2, "2 groups"),
        ([0, 0], [0, 1], ["a"], 2, "1 families"),
    ],
)
def test_what_twins_are_refused(group, twin, family, size, says):
    with pytest.raises(UserError, match=says):
        order_accuracies(np.eye(size), group, [0, 0], twin, family)


@pytest.mark.parametrize(
    ("similarity", "video_of_text", "ties", "says"),
    [
        (np.ones(3), None, "mean", "matrix"),
        (np.ones((0, 0)), None, "mean", "matrix"),
        ([[1], [1, 2]], None, "mean", "different lengths"),
        (np.ones((3, 2)), None, "mean", "video of each text"),
        (np.ones((3, 2)), [0, 1, 2], "mean", "index of one of 2"),
        (np.ones((3, 2)), [0, 1, -1], "mean", "index of one of 2"),
        (np.ones((3, 2)), [0.0, 1.0, 1.0], "mean", "index of one of 2"),
        (np.ones((3, 2)), [0, 1], "mean", "each of 3"),
        ([[1, 0], [0, np.nan]], None, "mean", "text 1 with video 1 is nan"),
        ([[1, 0], [-np.inf, 1]], None, "mean", "text 1 with video 0 is -inf"),
        ([[1, 1e300], [0, 1]], None, "mean", "not a finite float32"),
        (np.eye(2) * 1j, None, "mean", "complex128"),
        ([["a"]], None, "mean", "not real numbers"),
        (np.ones((2, 2)), None, "lucky", "ties is"),
    ],
)
def test_what_is_refused(block, similarity, video_of_text, ties, says):
    with pytest.raises(UserError, match=says):
        retrieval_metrics(similarity, video_of_text, ties)


def test_masked_similarities_are_refused():
    with pytest.raises(UserError, match="the similarity has masked values"):
        retrieval_metrics(np.ma.masked_less(np.eye(3), 0.5))
