"""Parts of a matrix that stay in a processor's cache while they are worked on."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

# Values per block: 1 MB of float32.
VALUES = 1 << 18


def slices(lines: int, line_size: int) -> Iterator[slice]:
    """Slices of lines (rows or columns), each with about one block of values."""
    size = max(1, VALUES // line_size)
    for start in range(0, lines, size):
        yield slice(start, min(start + size, lines))


def as_float32(values: np.ndarray) -> Float[np.ndarray, "..."]:
    """Values in float32 and C order; those too large for it become infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, np.float32)
