"""Similarity matrices too large to be held, computed block by block."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

# The most values of a matrix that is held in memory: one GiB of float32.
LARGEST = 1 << 28


class Similarity:
    """`texts @ videos.T`, of which only one tile is computed at a time.

    Args:
        texts: `[T, E]`.
        videos: `[V, E]`.
    """

    # Values per tile, large enough for an efficient matrix product: 64 MB.
    block = 1 << 24

    def __init__(
        self, texts: Float[np.ndarray, "T E"], videos: Float[np.ndarray, "V E"]
    ):
        self.features = texts, videos
        self.shape = len(texts), len(videos)
        self.dtype = np.result_type(texts, videos)

    def rows(self) -> list[slice]:
        """The rows of each tile."""
        columns = self.columns()[0]
        return _parts(self.shape[0], self.block // (columns.stop - columns.start))

    def columns(self) -> list[slice]:
        """The columns of each tile."""
        return _parts(self.shape[1], math.isqrt(self.block))

    def tile(
        self, rows: Int[np.ndarray, "R"], columns: slice
    ) -> Float[np.ndarray, "R C"]:
        """The product of some texts with some videos."""
        return self.features[0][rows] @ self.features[1][columns].T

    def __getitem__(self, key: Any) -> np.ndarray:
        """One row or several, or pairs by two arrays of indices, as NumPy indexes."""
        if isinstance(key, tuple):
            texts, videos = self.features[0][key[0]], self.features[1][key[1]]
            return np.einsum("ne,ne->n", texts, videos)
        return self.features[0][key] @ self.features[1].T


def _parts(lines: int, most: int) -> list[slice]:
    """Slices of equal size but for the last one, which may be smaller.

    A multiple of 64 where it can be: a product's last bits may depend on its shape, and
    equal features should have equal similarities wherever they stand.
    """
    size = -(-lines // -(-lines // max(1, most)))
    size = min(-(-size // 64) * 64, max(1, most))
    return [slice(start, min(start + size, lines)) for start in range(0, lines, size)]


def similarity_of(
    texts: Float[np.ndarray, "T E"], videos: Float[np.ndarray, "V E"]
) -> Float[np.ndarray, "T V"] | Similarity:
    """The matrix `texts @ videos.T`, or a lazy `Similarity` if it would be large."""
    if len(texts) * len(videos) > LARGEST:
        return Similarity(texts, videos)
    return texts @ videos.T
