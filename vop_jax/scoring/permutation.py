"""A paired permutation test: whether two models differ on the same queries."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from vop_jax.scoring.bootstrap import Clustered, Ranking, summaries_of
from vop_jax.scoring.metrics import summary

# Values per block: some tens of MB, however many queries there are.
_BLOCK = 1 << 22
# Equal differences count as equal, whatever the order of their sums.
_ROUNDING = 1e-9


class Difference(NamedTuple):
    """How a metric of two models differs.

    Attributes:
        value: the first model's minus the second's.
        p: the two-sided p-value: how often a difference at least as large would be seen
            if it were chance which of the two models gave which ranks.
    """

    value: float
    p: float


def permutation_test(
    first: Ranking, second: Ranking, *, permutations: int = 1000, seed: int = 0
) -> dict[str, Difference]:
    """The differences of all metrics of `metrics.summary`, each with its p-value.

    In a permutation the two models swap the ranks of every cluster of queries with
    probability one half. Clusters are swapped as a whole, since the captions of one
    video are not independent of each other.

    Args:
        first: ranks of a model.
        second: ranks of another one on the same queries; with the tie policy
            `clip4clip` a query may have another number of ranks.
        permutations: how many are drawn. A p-value is at least 1 / (permutations + 1),
            since the ranks as they are count as one.
        seed: of the permutations.

    Raises:
        ValueError: the clusters are not the same.
    """
    models = Clustered(first), Clustered(second)
    if not np.array_equal(models[0].names, models[1].names):
        raise ValueError("the rankings are of other clusters of queries")
    clusters = len(models[0].names)
    observed = _differences(*models, np.zeros((1, clusters), bool))[0]
    reached = np.zeros(len(observed), np.int64)
    for swaps in _draws(clusters, permutations, seed):
        found = _differences(*models, swaps)
        reached += (np.abs(found) >= np.abs(observed) - _ROUNDING).sum(axis=0)
    p = (1 + reached) / (1 + permutations)
    return {
        name: Difference(float(value), float(chance))
        for name, value, chance in zip(summary(np.ones(1)), observed, p, strict=True)
    }


def _draws(
    clusters: int, permutations: int, seed: int
) -> Iterator[Bool[np.ndarray, "N K"]]:
    """Blocks of permutations: which of K clusters are swapped."""
    random = np.random.default_rng(seed)
    most = max(1, _BLOCK // clusters)
    for start in range(0, permutations, most):
        size = min(most, permutations - start)
        yield random.integers(0, 2, (size, clusters), np.uint8).astype(bool)


def _differences(
    first: Clustered, second: Clustered, swaps: Bool[np.ndarray, "N K"]
) -> Float[np.ndarray, "N 6"]:
    """`metrics.summary` of the first minus that of the second, after swaps."""
    return _summaries(first, second, swaps) - _summaries(first, second, ~swaps)


def _summaries(
    first: Clustered, second: Clustered, swaps: Bool[np.ndarray, "N K"]
) -> Float[np.ndarray, "N 6"]:
    """`metrics.summary` of the first, with the second's ranks where it swaps."""
    sums = first.sums.sum(axis=0) + swaps @ (second.sums - first.sums)
    medians = np.empty(len(swaps))
    for place, row in enumerate(swaps):
        kept = first.ranks[~row[first.cluster]]
        taken = second.ranks[row[second.cluster]]
        medians[place] = np.median(np.concatenate([kept, taken]))
    return summaries_of(sums, medians)
