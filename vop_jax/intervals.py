"""How far a metric would move with other test videos: bootstrap intervals."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from vop_jax.metrics import summary

LEVEL = 95
# Values worked on in one go: some tens of MB, however many queries there are.
_BLOCK = 1 << 22


def bootstrap_intervals(
    ranks: Float[np.ndarray, "Q"],
    cluster: Sequence[int] | Int[np.ndarray, "Q"] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95% percentile intervals of every metric of `metrics.summary`.

    What is drawn anew, with replacement, is clusters of queries: the captions of one
    video are not independent of each other. Candidates stay as they are, so the
    intervals say what other queries would give in the same gallery.

    Args:
        ranks: of the queries, from 1.
        cluster: what each query belongs to, such as its video; None: each to itself.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        The metrics of `summary`, each with the lower and the upper end.
    """
    if cluster is None:
        cluster = np.arange(len(ranks))
    names, cluster = np.unique(np.asarray(cluster), return_inverse=True)
    order = np.argsort(ranks, kind="stable")
    ranks = np.asarray(ranks, np.float64)[order]
    cluster = cluster[order]
    random = np.random.default_rng(seed)
    even = np.full(len(names), 1 / len(names))
    drawn = []
    for size in _sizes(resamples, max(len(ranks), len(names))):
        # How often each cluster is drawn, and with it each of its queries.
        times = random.multinomial(len(names), even, size=size)[:, cluster]
        drawn.append(_weighted_summary(ranks, times))
    tails = (100 - LEVEL) / 2
    ends = np.percentile(np.concatenate(drawn), [tails, 100 - tails], axis=0)
    return {
        name: (float(low), float(high))
        for name, low, high in zip(summary(ranks), *ends, strict=True)
    }


def _sizes(resamples: int, values: int) -> list[int]:
    """The draws in portions of about `_BLOCK` values."""
    most = max(1, _BLOCK // values)
    return [min(most, resamples - start) for start in range(0, resamples, most)]


def _weighted_summary(
    ranks: Float[np.ndarray, "Q"], times: Int[np.ndarray, "R Q"]
) -> Float[np.ndarray, "R 5"]:
    """`metrics.summary`, in its order, of sorted ranks that count several times."""
    total = times.sum(axis=1)
    # Sorted, so that the ranks up to k are the first of them.
    reached = np.cumsum(times, axis=1)
    recalls = [
        100 * times[:, : np.searchsorted(ranks, k, side="right")].sum(axis=1) / total
        for k in (1, 5, 10)
    ]
    # The middle one, or the two in the middle, of `total` ranks.
    middle = [
        ranks[(reached <= place[:, None]).sum(axis=1)]
        for place in ((total - 1) // 2, total // 2)
    ]
    return np.stack(
        [*recalls, (middle[0] + middle[1]) / 2, times @ ranks / total], axis=1
    )
