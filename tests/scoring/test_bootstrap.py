"""Bootstrap intervals against scipy's, and against what they promise."""

import numpy as np
import pytest
import scipy.stats

from vop_jax.scoring import bootstrap as intervals
from vop_jax.scoring.bootstrap import Ranking
from vop_jax.scoring.metrics import summary


def draw_ranks(count, seed=0):
    return np.random.default_rng(seed).geometric(0.2, count).astype(float)


def bootstrap_intervals(ranks, cluster=None, **options):
    cluster = np.arange(len(ranks)) if cluster is None else cluster
    return intervals.bootstrap_intervals([Ranking(ranks, cluster)], **options)[0]


def slow_intervals(ranks, cluster, resamples, seed):
    """One draw after the other, each as a list of queries."""
    names = sorted(set(cluster))
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        chosen = random.choice(len(names), len(names))
        own = [rank for i in chosen for rank in ranks[cluster == names[i]]]
        drawn.append(list(summary(np.array(own)).values()))
    return np.percentile(drawn, [2.5, 97.5], axis=0).T


@pytest.mark.parametrize(
    ("metric", "statistic"),
    [
        ("R@1", lambda x, axis: 100 * (x <= 1).mean(axis)),
        ("R@10", lambda x, axis: 100 * (x <= 10).mean(axis)),
        ("MdR", np.median),
        ("MnR", np.mean),
    ],
)
def test_single_captions_agree_with_scipy(metric, statistic):
    ranks = draw_ranks(300)
    expected = scipy.stats.bootstrap(
        (ranks,), statistic, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    found = bootstrap_intervals(ranks, resamples=4000)[metric]
    width = expected.high - expected.low
    assert found == pytest.approx(tuple(expected), abs=0.1 * width)


@pytest.mark.parametrize("block", [1 << 22, 100])
def test_clusters_agree_with_slow_draws(monkeypatch, block):
    monkeypatch.setattr(intervals, "_BLOCK", block)
    rng = np.random.default_rng(2)
    # Of one to many queries, not in order, and named by any numbers.
    cluster = 3 * rng.geometric(0.04, 250)
    ranks = cluster % 7 + draw_ranks(250)
    found = bootstrap_intervals(ranks, cluster, resamples=1500)
    expected = slow_intervals(ranks, cluster, 1500, seed=3)
    assert list(found) == list(summary(ranks))
    for (name, ends), wanted in zip(found.items(), expected, strict=True):
        width = max(wanted[1] - wanted[0], 1)
        assert ends == pytest.approx(tuple(wanted), abs=0.15 * width), name


def test_captions_of_one_video_are_one_observation():
    """Repeating every query ten times must not make the interval narrower."""
    ranks = draw_ranks(60)
    alone = bootstrap_intervals(ranks)
    again = bootstrap_intervals(np.repeat(ranks, 10), np.repeat(np.arange(60), 10))
    for name, ends in alone.items():
        assert again[name] == pytest.approx(ends), name
    ignored = bootstrap_intervals(np.repeat(ranks, 10))
    narrow, wide = (x["R@1"][1] - x["R@1"][0] for x in (ignored, alone))
    assert narrow < 0.5 * wide


def test_the_truth_is_inside_as_often_as_promised():
    rng = np.random.default_rng(4)
    truth, inside = 40, 0
    for _ in range(300):
        ranks = np.where(rng.random(200) < truth / 100, 1, 12)
        low, high = bootstrap_intervals(ranks, resamples=300)["R@1"]
        inside += low <= truth <= high
    assert 0.90 <= inside / 300 <= 0.98


def test_what_does_not_vary_has_no_width():
    found = bootstrap_intervals(np.ones(20))
    assert found["R@1"] == (100, 100)
    assert found["MdR"] == found["MnR"] == (1, 1)


def test_the_seed_decides():
    ranks = draw_ranks(50)
    assert bootstrap_intervals(ranks) == bootstrap_intervals(ranks)
    assert bootstrap_intervals(ranks) != bootstrap_intervals(ranks, seed=1)


def test_rankings_that_share_samples_have_the_intervals_of_each_alone(monkeypatch):
    monkeypatch.setattr(intervals, "_BLOCK", 2000)
    cluster = np.random.default_rng(1).permutation(np.resize(np.arange(40), 150))
    rankings = [
        Ranking(draw_ranks(150), cluster),
        Ranking(draw_ranks(40, seed=1), np.arange(40)),
        # Of another number of clusters.
        Ranking(draw_ranks(70, seed=2), np.arange(70)),
    ]
    alone = [bootstrap_intervals(*ranking, resamples=300) for ranking in rankings]
    drawn = []
    samples = intervals._samples

    def counted(*arguments):
        drawn.append(arguments[0])
        return samples(*arguments)

    monkeypatch.setattr(intervals, "_samples", counted)
    assert intervals.bootstrap_intervals(rankings, resamples=300) == alone
    assert sorted(drawn) == [40, 70]
