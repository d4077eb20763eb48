"""Whether a model sees the order of time, on any captioned set.

The videos are played backwards, and the captions that say an order have it swapped. A
model that sees order finds a caption's video less well among reversed videos and by a
swapped caption, and prefers each caption's own. One that sees none has 50.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.console.terminal import table
from vop_jax.scoring.metrics import by_direction, retrieval_counts, summary
from vop_jax.scoring.similarity import similarity_of

# The same frames in another order are summed in another order, and differ by rounding.
_ROUNDING = 1e-5
Features = Float[np.ndarray, "N E"]


def time_order(
    texts: Features,
    videos: Features,
    reversed_videos: Features,
    video_of_text: Int[np.ndarray, "T"],
    rows: Int[np.ndarray, "S"],
    swapped_texts: Features,
    ties: str,
) -> dict[str, Any]:
    """Retrieval with time reversed and with words of order swapped.

    Args:
        texts: embeddings of all captions.
        videos: embeddings of all videos.
        reversed_videos: of the same videos, played backwards.
        video_of_text: the video of each caption.
        rows: the captions that say an order.
        swapped_texts: embeddings of those, with their order swapped.
        ties: the tie policy, see `metrics.retrieval_metrics`.

    Returns:
        `reversed_videos`: the metrics of `results.json` with the captions as they are
        and all videos backwards, and `preferred`, how many percent of the captions are
        more similar to their video forwards. `swapped_captions`: `captions`, how many
        say an order; if any, `as_written` and `swapped`, the metrics of t2v by those
        captions, and `preferred`, how many percent of them are more similar to their
        video than swapped. An equal similarity counts half.
    """
    own = videos[video_of_text]
    backwards = reversed_videos[video_of_text]
    counts = retrieval_counts(similarity_of(texts, reversed_videos), video_of_text)
    found: dict[str, Any] = {
        "reversed_videos": {
            **by_direction(counts, ties),
            "preferred": _preferred(texts, own, texts, backwards),
        },
        "swapped_captions": {"captions": len(rows)},
    }
    if len(rows):
        right = video_of_text[rows]
        asked = {"as_written": texts[rows], "swapped": swapped_texts}
        for name, features in asked.items():
            ranks = retrieval_counts(similarity_of(features, videos), right)["t2v"]
            found["swapped_captions"][name] = summary(ranks.ranks(ties))
        found["swapped_captions"]["preferred"] = _preferred(
            texts[rows], own[rows], swapped_texts, own[rows]
        )
    return found


def _preferred(
    texts: Features, videos: Features, others: Features, other_videos: Features
) -> float:
    """How many percent of the pairs are more similar than the others, row by row."""
    own, other = (
        np.einsum("ne,ne->n", *pair, dtype=np.float64)
        for pair in ((texts, videos), (others, other_videos))
    )
    equal = np.abs(own - other) <= _ROUNDING
    return 100 * float(np.mean(np.where(equal, 0.5, own > other)))


def show(found: dict[str, Any], results: dict[str, Any]) -> None:
    """Prints R@1 with and without the order, and which is preferred.

    Args:
        found: as `time_order` returns it.
        results: the metrics of `results.json`.
    """
    videos, captions = found["reversed_videos"], found["swapped_captions"]
    rows = [
        ("videos reversed", results["t2v"], videos["t2v"], videos["preferred"]),
    ]
    if captions["captions"]:
        before, after = captions["as_written"], captions["swapped"]
        name = f"order swapped in {captions['captions']:,} captions"
        rows.append((name, before, after, captions["preferred"]))
    cells = [
        (name, *(f"{x['R@1']:.1f}" for x in ways), f"{preferred:.1f}")
        for name, *ways, preferred in rows
    ]
    columns = ["", "t2v R@1", "changed", "as it is preferred"]
    table("order of time; who does not see it prefers 50", columns, cells)
