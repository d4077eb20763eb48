"""The metrics of `results.json`, from one similarity matrix."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vop_jax.scoring.counts import Counts
from vop_jax.scoring.event_order import order_accuracies
from vop_jax.scoring.metrics import by_direction, retrieval_counts
from vop_jax.scoring.similarity import Similarity

if TYPE_CHECKING:
    from data_pipelines.feeding.split import Split


def score(
    similarity: Float[np.ndarray, "C V"] | Similarity,
    split: "Split",
    ties: str,
    counts: dict[str, Counts] | None = None,
) -> dict[str, Any]:
    """The metrics of `results.json` that come from a split's similarity matrix.

    Args:
        similarity: of captions (rows) with videos (columns).
        split: whose captions and videos they are.
        ties: the tie policy, see `metrics.retrieval_metrics`.
        counts: of the similarity, if they are known.
    """
    if counts is None:
        counts = retrieval_counts(similarity, split.video_of_caption)
    results: dict[str, Any] = {
        "split": split.name,
        "queries": len(split.captions),
        "videos": len(split.video_ids),
        **by_direction(counts, ties),
    }
    if split.extras and "twin" in split.extras[0]:
        columns = {
            key: [extra[key] for extra in split.extras]
            for key in ("group", "variant", "twin", "family")
        }
        results |= order_accuracies(similarity, **columns)
    return results
