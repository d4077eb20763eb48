"""The search of a cell's learning rate: what is compared, and where it goes on."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vop_jax.study.cells import RATES


def validation_score(results: dict[str, Any]) -> float:
    """The objective of the search: the mean of the recalls of both directions."""
    metrics = results["validation"]
    return float(
        np.mean([metrics[way][f"R@{k}"] for way in ("t2v", "v2t") for k in (1, 5, 10)])
    )


def next_rate(scores: Mapping[float, float]) -> float | None:
    """The rate beyond a range whose best one is at its end, as far as the last step.

    Args:
        scores: rate -> validation score, -inf if its run failed.

    Returns:
        None if a search cannot go on: the best rate is within the range, or it is one
        rate alone, or no run succeeded, or the next would be out of `RATES`.
    """
    rates = sorted(scores)
    best = max(scores, key=scores.__getitem__)
    if len(rates) < 2 or scores[best] == -np.inf:
        return None
    ends = {rates[0]: rates[1], rates[-1]: rates[-2]}
    if best not in ends:
        return None
    beyond = best * (best / ends[best])
    return beyond if beyond in RATES else None
