"""How frames of any shape become square: what a model wants, as data."""

from collections.abc import Callable
from typing import NamedTuple


class _Resize(NamedTuple):
    """A way to make a frame square.

    Attributes:
        scaled: width, height and S -> width and height before the centre is cropped.
        words: in the provenance; `{}` is the filter.
    """

    scaled: Callable[[int, int, int], tuple[int, int]]
    words: str


def _by_shorter_side(width: int, height: int, size: int) -> tuple[int, int]:
    short = min(width, height)
    return max(size, int(size * width / short)), max(size, int(size * height / short))


RESIZES = {
    "crop": _Resize(
        _by_shorter_side, "shorter side by PIL's antialiased {}, centre crop"
    ),
    "squash": _Resize(
        lambda width, height, size: (size, size), "both sides by PIL's antialiased {}"
    ),
}
FILTERS = ("bicubic", "bilinear")


class Resizing(NamedTuple):
    """How a frame of any shape becomes square.

    Attributes:
        resize: a key of `RESIZES`: `crop` (the shorter side to S, then the centre) or
            `squash` (both sides to S).
        filter: a key of `FILTERS`, antialiased as PIL does it.
    """

    resize: str = "crop"
    filter: str = "bicubic"

    @property
    def words(self) -> str:
        """In the provenance of shards."""
        return RESIZES[self.resize].words.format(self.filter)

    @property
    def suffix(self) -> str:
        """In the name of a folder of shards; empty for the default."""
        return "" if self == CLIP_RESIZING else f"-{self.resize}-{self.filter}"


# OpenAI's CLIP's, and most others'.
CLIP_RESIZING = Resizing()
