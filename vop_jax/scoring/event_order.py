"""Accuracy on pairs of clips that differ only in the order of events.

A clip's twin is the same clip played backwards; a clip with the same end reaches the
same last frames in another way.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.console.errors import UserError
from vop_jax.scoring.blocks import as_float32
from vop_jax.scoring.metrics import checked_matrix
from vop_jax.scoring.similarity import Similarity

# Key of `results.json` -> what its pairs compare.
ORDERS = {
    "twins": "A clip against its time-reversed twin",
    "same_end": "A clip against one that differs only in how it got there",
}
# In which of (twin, variant) the clips of a pair differ.
_FLIPS = {"twins": (1, 0), "same_end": (0, 1)}


def order_accuracies(
    similarity: Float[np.ndarray, "N N"] | Similarity,
    group: Sequence[int],
    variant: Sequence[int],
    twin: Sequence[int],
    family: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Accuracy on each kind of pairs of `ORDERS`; chance is 50.

    Args:
        similarity: of each clip's one caption (row) with each clip (column).
        group: of each clip; the clips of a group differ in variant and twin.
        variant: 0 or 1, of each clip.
        twin: 0 or 1, of each clip: played forwards or backwards.
        family: the kind of event of each clip.

    Returns:
        By key of `ORDERS`, `{"t2v", "v2t", "families": {family: ...}}` in percent. t2v
        compares a caption's own clip with that clip's counterpart, v2t a clip's own
        caption with its counterpart's; a family has the mean of both. A tie counts
        half.

    Raises:
        UserError: the matrix is not square, lengths differ, or a clip has no
            counterpart.
    """
    return {
        name: _accuracy(similarity, _partners(group, variant, twin, flip), family)
        for name, flip in _FLIPS.items()
    }


def _partners(
    group: Sequence[int],
    variant: Sequence[int],
    twin: Sequence[int],
    flip: tuple[int, int],
) -> Int[np.ndarray, "N"]:
    """Each clip's counterpart: the one where (twin, variant) differ by `flip`."""
    sizes = {len(group), len(variant), len(twin)}
    if len(sizes) > 1:
        raise UserError(
            f"{len(group)} groups, {len(variant)} variants and {len(twin)} twins: "
            "each clip has one of each"
        )
    keys = np.stack([np.asarray(x, np.int64) for x in (group, twin, variant)], axis=1)
    places = {tuple(key): place for place, key in enumerate(keys.tolist())}
    if len(places) < len(keys):
        raise UserError("two clips have the same group, variant and twin")
    found = []
    for place, (clip_group, *bits) in enumerate(keys.tolist()):
        other = [bit ^ change for bit, change in zip(bits, flip, strict=True)]
        if (clip_group, *other) not in places:
            raise UserError(
                f"clip {place} has no counterpart: no clip of group {clip_group} has "
                f"twin {other[0]} and variant {other[1]}"
            )
        found.append(places[(clip_group, *other)])
    return np.array(found)


def _accuracy(
    similarity: np.ndarray | Similarity,
    partner: Int[np.ndarray, "N"],
    family: Sequence[str],
) -> dict[str, Any]:
    t2v, v2t = pair_accuracy(similarity, partner)
    if len(family) != len(partner):
        raise UserError(f"{len(partner)} clips but {len(family)} families")
    families = np.asarray(family)
    return {
        "t2v": 100 * float(t2v.mean()),
        "v2t": 100 * float(v2t.mean()),
        "families": {
            str(name): 50 * float((t2v + v2t)[families == name].mean())
            for name in np.unique(families)
        },
    }


def both_ways(accuracy: dict[str, Any]) -> float:
    """The mean of t2v and v2t of an entry of `order_accuracies`."""
    return (accuracy["t2v"] + accuracy["v2t"]) / 2


def pair_accuracy(
    similarity: Float[np.ndarray, "N N"] | Similarity, partner: Int[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """Whether each item's match is more similar than its partner, t2v and v2t.

    Args:
        similarity: square; text i belongs to video i.
        partner: the item that item i is compared with.

    Returns:
        1 where the own match is more similar, 0.5 where both are equal, 0 otherwise.

    Raises:
        UserError: the matrix is not square, or its size is not the number of partners.
    """
    matrix = checked_matrix(similarity)
    if matrix.shape != (len(partner), len(partner)):
        raise UserError(
            f"the similarity has shape {list(matrix.shape)}, but there are "
            f"{len(partner)} items, each with one text"
        )
    index = np.arange(len(partner))
    own = as_float32(matrix[index, index])

    def won(other: np.ndarray) -> np.ndarray:
        other = as_float32(other)
        return (own > other) + 0.5 * (own == other)

    return won(matrix[index, partner]), won(matrix[partner, index])
