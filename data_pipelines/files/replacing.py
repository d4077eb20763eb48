"""Replaces a file in one move, so that no reader ever sees half of it."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

# Not imported at run time: decoding processes start faster without it.
if TYPE_CHECKING:
    from etils import epath

P = TypeVar("P", bound="Path | epath.Path")


@contextlib.contextmanager
def replacing(path: P, mark: str = "") -> Iterator[P]:
    """A path to write to, which replaces `path` when the block succeeds.

    If the block fails, `path` stays as it was and what was written is removed.

    A device or a pipe, such as `/dev/stdout`, is written to as it is: a file in its
    place would take it from every other program.

    Args:
        path: local or in an object store; missing folders above it are created.
        mark: a part of the temporary name. Processes that may write the same file at
            the same time pass different ones.

    Yields:
        A hidden path beside it.
    """
    if _is_special(path):
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{path.name}.{mark}.partial" if mark else f".{path.name}.partial"
    partial = cast(P, path.with_name(name))
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _is_special(path: "Path | epath.Path") -> bool:
    """Whether a path leads to a device, a pipe or a socket."""
    try:
        mode = os.stat(str(path)).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
