"""The few shapes that arrays are padded to, since each is compiled once."""

from collections.abc import Sequence

import numpy as np

# Lengths captions are cut to.
BUCKETS = (8, 16, 24, 32, 40, 48, 64, 77)


def caption_lengths(ids: np.ndarray) -> np.ndarray:
    """Number of tokens up to the last that is no padding, `[C, N] -> [C]`."""
    return ids.shape[1] - (ids[:, ::-1] != 0).argmax(axis=1)


def bucket_length(longest: int, limit: int, buckets: Sequence[int] = BUCKETS) -> int:
    """The smallest bucket that holds so many tokens."""
    return min([b for b in buckets if longest <= b <= limit], default=limit)


def bucket_batch(count: int, limit: int) -> int:
    """The size of a batch that holds so many: the next power of two, or the limit."""
    return min(1 << (max(count, 1) - 1).bit_length(), limit)
