"""The limits of what is decoded, and the flags that set them."""

import argparse
from collections.abc import Callable

from data_pipelines.console.ranges import Range, number

# Frames of a video, and the sides of a frame in pixels.
FRAMES, SIDES = Range(1, 4_096), Range(1, 8_192)
# Seconds in which a file is decoded, twelve days at most: a wait of the system may be
# no longer than some hundred years, and is silently cut by some.
_SECONDS = Range(0, 1_000_000, above=True)


def add_limits(add: Callable[..., argparse.Action]) -> None:
    """Adds the flags of the decoding processes.

    Args:
        add: `add_argument` of a parser.
    """
    add(
        "--workers",
        type=number(int, Range(1, 1_024)),
        help="decoding processes (default: one per core)",
    )
    add(
        "--seconds",
        type=number(float, _SECONDS),
        default=120.0,
        help="time limit per file",
    )
    add(
        "--max_megabytes",
        type=number(int, Range(1, 1_000_000_000)),
        default=4096,
        help="size limit per file",
    )
