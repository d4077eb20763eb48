"""Which frames of a video stand for it: one in the middle of each equal part."""

import itertools


def uniform_indices(total: int, count: int) -> list[int]:
    """The middle frame of each of `count` equal intervals of `[0, total)`.

    A video with fewer frames repeats its last one.
    """
    if total < count:
        return [min(i, total - 1) for i in range(count)]
    edges = interval_edges(total, count)
    return [(a + b - 1) // 2 for a, b in itertools.pairwise(edges)]


def interval_edges(total: int, count: int) -> list[int]:
    """The edges of `count` equal intervals of `[0, total)`, both ends included."""
    # Imported late: a configuration needs none of it.
    import numpy as np

    return np.linspace(0, total, count + 1).astype(int).tolist()
