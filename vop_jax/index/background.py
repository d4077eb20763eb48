"""What an index answers to sentences that nobody asked: the measure of a weak match.

Some moment is always the best, also where nothing fits. How similar the best answers to
unrelated sentences are says how similar one must be to mean something.
"""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from vop_jax.index.record_names import check_names

# Everyday scenes; 12 x 10 sentences. A folder may well show some of them, so the
# measures below are medians.
_WHO = (
    *("a woman", "an old man", "two children", "a dog", "a tall waiter", "a cyclist"),
    *("a nurse", "three students", "a farmer", "a cat", "a singer", "a bus driver"),
)
_WHAT = (
    "peels an apple in a bright kitchen",
    "waits for a train at a crowded station",
    "sleeps on a sofa in the afternoon",
    "walks along a snowy street at night",
    "swims across a lake in the mountains",
    "reads a letter beside a window",
    "repairs a bicycle in a garage",
    "dances in front of a large audience",
    "buys bread at a market stall",
    "plays with a ball on the beach",
)
SENTENCES = tuple(f"{who} {what}" for who, what in itertools.product(_WHO, _WHAT))
# From the median absolute deviation to the standard deviation of a normal distribution.
_NORMAL = 1.4826
# Of a model that says the same of all of them.
_LEAST_STD = 1e-3
# The part of unrelated sentences that may be answered as well as a match.
_QUANTILE = 0.95
# The largest number of a record.
_LARGEST = 1e9


@dataclasses.dataclass(frozen=True)
class Background:
    """The best answers of an index to unrelated sentences.

    Attributes:
        mean: typical similarity of the best moment (the median).
        std: their standard deviation (from the median absolute deviation).
        limit: similarity that 95 % of them stay below.
        count: number of sentences.
    """

    mean: float
    std: float
    limit: float
    count: int

    @classmethod
    def of(cls, records: dict[str, Any]) -> "Background | None":
        """From the records of a store; None before it has been measured.

        Raises:
            TypeError: the record is not one of an index.
        """
        told = records.get("background")
        if told is None:
            return None
        check_names("background", told, [x.name for x in dataclasses.fields(cls)])
        found = cls(**told)
        for name, value in dataclasses.asdict(found).items():
            # An integer may be larger than any float.
            if type(value) is not float and not (
                type(value) is int and name == "count"
            ):
                raise TypeError(f"background.{name} is {type(value).__name__}")
            # Products of vectors are far smaller; other numbers fill pages.
            least = -_LARGEST if name in ("mean", "limit") else 0
            if not least <= value <= _LARGEST:
                raise TypeError(f"background.{name} is out of range")
        return found

    def record(self) -> dict[str, float]:
        """As stored."""
        return dataclasses.asdict(self)

    def stands_out(self, similarity: float) -> float:
        """How far a similarity lies above them, in standard deviations."""
        return (similarity - self.mean) / max(self.std, _LEAST_STD)

    def is_weak(self, similarity: float) -> bool:
        """Whether unrelated sentences are answered as well."""
        return similarity <= self.limit


def measure(
    texts: Float[np.ndarray, "T E"], blocks: Iterable[Float[np.ndarray, "N E"]]
) -> Background | None:
    """The background of an index.

    Args:
        texts: embeddings of `SENTENCES`.
        blocks: the embeddings of all moments, in parts.

    Returns:
        None if there are no moments.
    """
    best = np.full(len(texts), -np.inf)
    for block in blocks:
        finite = block[np.isfinite(block).all(axis=1)]
        if len(finite):
            best = np.maximum(best, (texts @ finite.T).max(axis=1))
    if not np.isfinite(best).all():
        return None
    median = float(np.median(best))
    return Background(
        mean=median,
        std=_NORMAL * float(np.median(np.abs(best - median))),
        limit=float(np.quantile(best, _QUANTILE)),
        count=len(best),
    )
