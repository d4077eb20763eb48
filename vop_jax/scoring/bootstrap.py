"""Bootstrap intervals: how much a metric would vary with other test queries."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vop_jax.scoring.metrics import gains, summary

LEVEL = 95
# Values per block: some tens of MB, however many queries there are.
_BLOCK = 1 << 22

Intervals = dict[str, tuple[float, float]]


class Ranking(NamedTuple):
    """Ranks of queries that are drawn in clusters.

    Attributes:
        ranks: from 1.
        cluster: of each rank, such as the video of its query; any integers.
    """

    ranks: Float[np.ndarray, "R"]
    cluster: Sequence[int] | Int[np.ndarray, "R"]


def bootstrap_intervals(
    rankings: Sequence[Ranking], *, resamples: int = 1000, seed: int = 0
) -> list[Intervals]:
    """95% percentile intervals of every metric of `metrics.summary`.

    Clusters of queries are resampled with replacement, since the captions of one video
    are not independent of each other. The candidates stay the same, so the intervals
    say how much the metric varies with other queries on the same gallery.

    Args:
        rankings: those of as many clusters share their samples, which take most of the
            time; each has the intervals that it would have alone.
        resamples: number of bootstrap samples.
        seed: of the samples.

    Returns:
        Of each ranking, the metrics of `summary` with the lower and the upper end.
    """
    sorted_rankings = [_Sorted(ranking) for ranking in rankings]
    drawn: list[list[np.ndarray]] = [[] for _ in rankings]
    for clusters in {ranking.clusters for ranking in sorted_rankings}:
        for times in _samples(clusters, resamples, seed):
            for ranking, found in zip(sorted_rankings, drawn, strict=True):
                if ranking.clusters == clusters:
                    found.append(ranking.summaries(times))
    tails = (100 - LEVEL) / 2
    intervals = []
    for found in drawn:
        ends = np.percentile(np.concatenate(found), [tails, 100 - tails], axis=0)
        pairs = zip(_METRICS, *ends.tolist(), strict=True)
        intervals.append({name: (low, high) for name, low, high in pairs})
    return intervals


_METRICS = tuple(summary(np.ones(1)))


def _samples(
    clusters: int, resamples: int, seed: int
) -> Iterator[Int[np.ndarray, "R K"]]:
    """Blocks of samples: how often each draws each of K clusters."""
    random = np.random.default_rng(seed)
    even = np.full(clusters, 1 / clusters)
    most = max(1, _BLOCK // clusters)
    for start in range(0, resamples, most):
        size = min(most, resamples - start)
        yield random.multinomial(clusters, even, size=size)


class Clustered:
    """A ranking with what the metrics of any choice of its clusters follow from.

    Attributes:
        names: of the K clusters, ascending.
        ranks: float64.
        cluster: of each rank, from 0 to K - 1.
        sums: of each cluster, its ranks up to 1, 5 and 10, the sum of their gains, of
            all its ranks, and their number.
    """

    def __init__(self, ranking: Ranking):
        self.names, self.cluster = np.unique(
            np.asarray(ranking.cluster), return_inverse=True
        )
        self.ranks = np.asarray(ranking.ranks, np.float64)
        recalled = (self.ranks <= k for k in (1, 5, 10))
        columns = [*recalled, gains(self.ranks), self.ranks, None]
        count = len(self.names)
        self.sums: Float[np.ndarray, "K 6"] = np.stack(
            [np.bincount(self.cluster, x, count) for x in columns], axis=1
        )


def summaries_of(
    sums: Float[np.ndarray, "N 6"], medians: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N 6"]:
    """`metrics.summary` of choices of clusters, in its order.

    Args:
        sums: of the chosen clusters, as of `Clustered`. They are sums of whole and half
            numbers, and of rounded gains: exact in float64, in any order.
        medians: of the ranks.
    """
    *recalled, gained, total, count = sums.T
    recalls = [100 * reached / count for reached in recalled]
    return np.stack([*recalls, medians, total / count, 100 * gained / count], axis=1)


class _Sorted:
    """A ranking in the order of its ranks, with what a sample's metrics follow from."""

    def __init__(self, ranking: Ranking):
        clustered = Clustered(ranking)
        order = np.argsort(ranking.ranks, kind="stable")
        self.clusters = len(clustered.names)
        self._ranks, self._cluster = clustered.ranks[order], clustered.cluster[order]
        self._sums = clustered.sums

    def summaries(self, times: Int[np.ndarray, "R K"]) -> Float[np.ndarray, "R 6"]:
        """`metrics.summary` of samples, in its order.

        Args:
            times: how often a sample draws each cluster, and with it each of its ranks.
        """
        sums = times @ self._sums
        medians = [
            self._median(row, int(total))
            for row, total in zip(times, sums[:, -1], strict=True)
        ]
        return summaries_of(sums, np.array(medians))

    def _median(self, times: Int[np.ndarray, "K"], total: int) -> float:
        """The middle one of `total` ranks, or the mean of the middle two."""
        reached = np.cumsum(times[self._cluster])
        places = (total - 1) // 2, total // 2
        low, high = self._ranks[np.searchsorted(reached, places, side="right")]
        return (low + high) / 2
