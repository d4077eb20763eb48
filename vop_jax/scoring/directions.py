"""The ranks of both directions, with the queries and videos that they belong to."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vop_jax.scoring.counts import Counts


class Direction(NamedTuple):
    """The ranks of one direction.

    Attributes:
        ranks: of the queries; with `clip4clip` a query has one for each tie.
        query: the index of the text or video that each rank belongs to.
        video: the video of each rank's query, which is its bootstrap cluster.
    """

    ranks: Float[np.ndarray, "R"]
    query: Int[np.ndarray, "R"]
    video: Int[np.ndarray, "R"]


def directions(
    counts: dict[str, Counts], right: Int[np.ndarray, "T"], ties: str
) -> dict[str, Direction]:
    """The ranks of each direction, with what they belong to.

    Args:
        counts: by direction, see `vop_jax.scoring.counts`.
        right: the correct video of each text.
        ties: see `vop_jax.scoring.metrics`.
    """
    found, asked = {}, np.unique(right)
    for way, number in counts.items():
        query = np.arange(len(right)) if way == "t2v" else asked
        video = right if way == "t2v" else asked
        if ties == "clip4clip":
            times = number.tied + 1
            query, video = np.repeat(query, times), np.repeat(video, times)
        found[way] = Direction(number.ranks(ties), query, video)
    return found
