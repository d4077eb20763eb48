"""The paired permutation test against scipy's, and against what it promises."""

import numpy as np
import pytest
import scipy.stats
from tiers import slow_except

from vop_jax.scoring.bootstrap import Ranking
from vop_jax.scoring.metrics import summary
from vop_jax.scoring.permutation import permutation_test


def draw(count, mean, random):
    return random.geometric(1 / mean, count).astype(float)


def single(ranks):
    return Ranking(ranks, np.arange(len(ranks)))


STATISTICS = {
    "R@1": lambda x, axis: 100 * (x <= 1).mean(axis),
    "R@10": lambda x, axis: 100 * (x <= 10).mean(axis),
    "MdR": np.median,
    "MnR": np.mean,
    "nDCG@10": lambda x, axis: (
        100 * np.where(x <= 10, 1 / np.log2(1 + x), 0).mean(axis)
    ),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_single_captions_agree_with_scipy(name):
    random = np.random.default_rng(0)
    first, second = draw(60, 6.0, random), draw(60, 9.0, random)
    statistic = STATISTICS[name]
    expected = scipy.stats.permutation_test(
        (first, second),
        lambda x, y, axis: statistic(x, axis) - statistic(y, axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=1,
    )
    found = permutation_test(single(first), single(second), permutations=20_000)[name]
    assert found.value == pytest.approx(expected.statistic)
    # SciPy doubles the smaller tail, which for a discrete metric differs a little.
    assert found.p == pytest.approx(expected.pvalue, abs=0.02)


@pytest.mark.parametrize("ties", slow_except([False, True], True))
def test_clusters_are_swapped_as_a_whole(ties):
    """Every permutation of a few clusters, by hand."""
    random = np.random.default_rng(2)
    cluster = np.repeat(np.arange(8), 3)
    first, second = draw(24, 4.0, random), draw(24, 6.0, random)
    other = cluster
    if ties:
        # One more rank of the second in some clusters, as `clip4clip` has them.
        second, other = np.append(second, [9.0, 2.0]), np.append(cluster, [3, 5])
    found = permutation_test(
        Ranking(first, cluster), Ranking(second, other), permutations=50_000
    )
    differences = []
    for bits in range(2**8):
        swap = np.array([bits >> i & 1 for i in range(8)], bool)
        own = np.concatenate([first[~swap[cluster]], second[swap[other]]])
        rest = np.concatenate([first[swap[cluster]], second[~swap[other]]])
        differences.append(
            np.subtract(list(summary(own).values()), list(summary(rest).values()))
        )
    for name, row in zip(summary(first), np.transpose(differences), strict=True):
        exact = np.mean(np.abs(row) >= abs(row[0]) - 1e-9)
        assert found[name].value == pytest.approx(row[0])
        assert found[name].p == pytest.approx(exact, abs=0.01)


def test_two_equal_rankings_do_not_differ():
    ranks = draw(50, 5.0, np.random.default_rng(0))
    for found in permutation_test(single(ranks), single(ranks)).values():
        assert found == (0.0, 1.0)


def test_a_clear_difference_is_found():
    random = np.random.default_rng(0)
    ranks = draw(300, 8.0, random)
    found = permutation_test(single(ranks), single(ranks + 1), permutations=999)
    assert (found["MnR"].value, found["MnR"].p) == (-1.0, 0.001)


def test_other_queries_are_refused():
    ranks = np.ones(3)
    with pytest.raises(ValueError, match="other clusters"):
        permutation_test(Ranking(ranks, [0, 1, 2]), Ranking(ranks, [0, 1, 3]))


def test_the_blocks_do_not_change_the_result(monkeypatch):
    random = np.random.default_rng(0)
    pair = single(draw(40, 5.0, random)), single(draw(40, 7.0, random))
    whole = permutation_test(*pair)
    monkeypatch.setattr("vop_jax.scoring.permutation._BLOCK", 40 * 7)
    assert permutation_test(*pair) == whole


@pytest.mark.campaign
def test_false_alarms_at_five_percent(capsys):
    """Of 2,000 pairs of models that do not differ, 4 to 6 % do so at 5 %."""
    random, alarms = np.random.default_rng(0), dict.fromkeys(("R@1", "MnR"), 0)
    for _ in range(2_000):
        # Queries differ in difficulty, and three captions share a video's. Many ranks
        # are 1, so that recalls are not too coarse for their rate to reach 5 %.
        video = np.repeat(random.gamma(0.5, 4.0, 200), 3)
        cluster = np.repeat(np.arange(200), 3)
        first, second = (1 + random.poisson(video).astype(float) for _ in range(2))
        found = permutation_test(
            Ranking(first, cluster), Ranking(second, cluster), permutations=199
        )
        for name in alarms:
            alarms[name] += found[name].p <= 0.05
    rates = {name: count / 2_000 for name, count in alarms.items()}
    with capsys.disabled():
        print(f"\nfalse alarms: {rates}")
    for rate in rates.values():
        assert 0.04 <= rate <= 0.06
