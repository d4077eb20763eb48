"""Bucket sizes: arrays are padded to a few shapes, since XLA compiles each shape."""

import itertools
from collections.abc import Sequence

import numpy as np

# Lengths, in tokens, that a batch of captions is padded to.
BUCKETS = (8, 16, 24, 32, 40, 48, 64, 77)

# Positions of a caption, summed over steps, that compiling a step is worth: in the
# demo, 480 steps on 8 positions less save less time than the 8 s of compiling.
PROGRAM = 5000


def caption_lengths(ids: np.ndarray) -> np.ndarray:
    """Length of each caption without its padding, `[C, N] -> [C]`."""
    return ids.shape[1] - (ids[:, ::-1] != 0).argmax(axis=1)


def bucket_lengths(limit: int, buckets: Sequence[int] = BUCKETS) -> list[int]:
    """All lengths that captions of at most `limit` tokens are padded to."""
    return [*(b for b in buckets if b < limit), limit]


def bucket_length(longest: int, limit: int, buckets: Sequence[int] = BUCKETS) -> int:
    """The smallest bucket that holds `longest` tokens."""
    return next(x for x in bucket_lengths(limit, buckets) if longest <= x or x == limit)


def used_lengths(
    lengths: np.ndarray,
    limit: int,
    *,
    batch_size: int,
    steps: int,
    buckets: Sequence[int] = BUCKETS,
) -> list[int]:
    """The lengths that the batches of a run are padded to, shortest first.

    Those of `bucket_lengths` that are worth a program of their own: each costs as much
    as `PROGRAM` token positions, and saves some in the steps whose captions fit.

    Args:
        lengths: of all captions that batches are drawn from, `[C]`.
        limit: of a caption.
        batch_size: captions of a batch.
        steps: of the run.
        buckets: the lengths to choose from.
    """
    longest = bucket_length(int(lengths.max()), limit, buckets)
    *shorter, _ = bucket_lengths(longest, buckets)
    # How many steps have only captions of at most some length.
    fitting = {b: steps * float(np.mean(lengths <= b)) ** batch_size for b in shorter}

    def cost(chosen: tuple[int, ...]) -> float:
        saved, longer = 0.0, longest
        for bucket in reversed(chosen):
            saved += fitting[bucket] * (longer - bucket)
            longer = bucket
        return PROGRAM * len(chosen) - saved

    sets = (itertools.combinations(shorter, n) for n in range(len(shorter) + 1))
    return [*min(itertools.chain.from_iterable(sets), key=cost), longest]


def bucket_batch(count: int, limit: int) -> int:
    """The batch size that holds `count` items: the next power of two, or the limit."""
    return min(1 << (max(count, 1) - 1).bit_length(), limit)
