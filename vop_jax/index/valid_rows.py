"""What a row of an index can be, in its tables as in the copy of them.

A right checksum says that a row is as it was stored, not that an update has stored it.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vop_jax.index.location import is_plain
from vop_jax.index.tables import VideoRow

# Longest time in a video, seconds.
_LATEST = 1e9
# The most moments of a video: a frame each of more than three days.
_MOST = 10_000_000
_KINDS: dict[str, type] = VideoRow.__annotations__
_LARGEST = {"size": 2**63 - 1, "moments": _MOST, "width": 2**31 - 1}
_LARGEST["height"] = _LARGEST["width"]


def fault_of(rows: Sequence[Sequence[Any]]) -> str:
    """What is wrong with a row of `videos`; empty if nothing.

    It looks at a column at a time, which is quick for many rows.

    Args:
        rows: of any values, in the order of `VideoRow`.
    """
    if not rows:
        return ""
    if {len(row) for row in rows} != {len(_KINDS)}:
        return "its row is damaged (it has other columns)"
    columns = dict(zip(_KINDS, zip(*rows, strict=True), strict=True))
    for name, column in columns.items():
        kind = _KINDS[name]
        if {*map(type, column)} != {kind}:
            return f"its row is damaged ({name} is of another type)"
        if not _are_possible(name, kind, column):
            return f"its row is damaged ({name} cannot be)"
    if [*map(bool, columns["moment_set"])] != [*map(bool, columns["moments"])]:
        return "its row is damaged (moments are of no set)"
    if not all(map(is_plain, columns["path"])):
        return "its path leaves the folder"
    return ""


def faults_in(rows: Mapping[str, VideoRow]) -> dict[str, str]:
    """The rows that cannot be, and what is wrong with each.

    Args:
        rows: by path.
    """
    if not fault_of([*rows.values()]):
        return {}
    found = {path: fault_of([row]) for path, row in rows.items()}
    return {path: fault for path, fault in found.items() if fault}


def _are_possible(name: str, kind: type, column: Sequence[Any]) -> bool:
    if name == "mtime_ns":
        return min(column) >= -(2**63) and max(column) < 2**63
    if kind is int:
        # A file that could not be looked at has the size -1.
        least = -1 if name == "size" else 0
        return least <= min(column) and max(column) <= _LARGEST[name]
    if kind is float:
        return all(0 <= x <= _LATEST for x in column)
    try:
        # Half a character is an error; names of files are any bytes.
        text = "".join(column)
        os.fsencode(text) if name == "path" else text.encode()
    except UnicodeEncodeError:
        return False
    return True


def are_moments(
    numbers: Int[np.ndarray, "N"],
    starts: Float[np.ndarray, "N"],
    ends: Float[np.ndarray, "N"],
) -> Bool[np.ndarray, "N"]:
    """Whether each moment has a number and times that a moment can have.

    Args:
        numbers: position in its video.
        starts: seconds.
        ends: seconds.
    """
    # Comparisons with what is not a number are false.
    times = (starts >= 0) & (starts <= ends) & (ends <= _LATEST)
    return times & (numbers >= 0) & (numbers < _MOST)


def in_order(
    starts: Float[np.ndarray, "N"], first: Int[np.ndarray, "S+1"]
) -> Bool[np.ndarray, "N"]:
    """Whether each moment begins at or behind all earlier ones of its video.

    Args:
        starts: seconds, by set and number.
        first: of each set, the place of its first moment; and the total behind.
    """
    good = np.ones(len(starts), bool)
    falls = np.flatnonzero(np.diff(starts) < 0)
    places = np.searchsorted(first, falls, side="right") - 1
    within = falls + 1 < first[places + 1]
    for place in np.unique(places[within]):
        part = slice(first[place], first[place + 1])
        good[part] = starts[part] >= np.maximum.accumulate(starts[part])
    return good
