"""Similarities of many texts with many videos, computed where they are looked at."""

from typing import Any

import numpy as np
from jaxtyping import Float

# Of a matrix that is still held: a gigabyte.
LARGEST = 1 << 28


class Similarity:
    """`texts @ videos.T`, of which only the part that is indexed ever exists.

    Args:
        texts: `[T, E]`.
        videos: `[V, E]`.
    """

    # Values of a part that is worth a matrix product: 64 MB.
    block = 1 << 24

    def __init__(self, texts: Float[np.ndarray, "T E"], videos: np.ndarray):
        self.features = texts, videos
        self.shape = len(texts), len(videos)
        self.dtype = np.result_type(texts, videos)

    def __getitem__(self, key: Any) -> np.ndarray:
        """As of the matrix: rows, or rows and columns; two lists of numbers pair up."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        texts, videos = self.features[0][rows], self.features[1][columns]
        if isinstance(rows, np.ndarray) and isinstance(columns, np.ndarray):
            return np.einsum("ne,ne->n", texts, videos)
        return texts @ videos.T


def similarity_of(
    texts: Float[np.ndarray, "T E"], videos: Float[np.ndarray, "V E"]
) -> Any:
    """The matrix `texts @ videos.T`, or what stands for it where it would be large."""
    if len(texts) * len(videos) > LARGEST:
        return Similarity(texts, videos)
    return texts @ videos.T
