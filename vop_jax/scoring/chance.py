"""How far the metrics of a run may be chance, as JSON values of `results.json`."""

from collections.abc import Mapping
from typing import Any

from vop_jax.scoring.bootstrap import LEVEL, Ranking, bootstrap_intervals
from vop_jax.scoring.permutation import permutation_test

# As `evaluate` draws by default, so that both say the same.
RESAMPLES, SEED = 1000, 0
# Below it R@10 is near 100 by guessing, and an interval over videos is too narrow.
_FEW_VIDEOS = 50


def remark_on(videos: int) -> str:
    """What is to be said of metrics over so many videos; empty if nothing is."""
    if videos >= _FEW_VIDEOS:
        return ""
    return "with so few videos the metrics say little, R@5 and R@10 least"


def drawn_intervals(rankings: Mapping[str, Ranking]) -> dict[str, Any]:
    """The bootstrap interval of every metric, by direction.

    Args:
        rankings: by direction.
    """
    found = bootstrap_intervals(list(rankings.values()), resamples=RESAMPLES, seed=SEED)
    drawing = {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED}
    return drawing | dict(zip(rankings, found, strict=True))


def against(
    first: Mapping[str, Ranking], second: Mapping[str, Ranking]
) -> dict[str, Any]:
    """The differences of two models on the same queries, each with its p-value.

    Args:
        first: ranks of one model by direction.
        second: of the other one, whose metrics are subtracted.
    """
    drawing = {"permutations": RESAMPLES, "seed": SEED}
    found = {
        way: permutation_test(ranking, second[way], permutations=RESAMPLES, seed=SEED)
        for way, ranking in first.items()
    }
    return drawing | {
        way: {name: each._asdict() for name, each in metrics.items()}
        for way, metrics in found.items()
    }
