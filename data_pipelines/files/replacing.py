"""Replaces a file in one move, so that no reader ever sees half of it.

Every writer writes a file of its own beside the final one; of several, the last one to
finish wins. The name is random, so that nothing can be planted there, and says whose it
is, so that what a killed process left is removed by a later one.
"""

import contextlib
import functools
import itertools
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from data_pipelines.files.owners import is_running, process_mark

# Not imported at run time: decoding processes start faster without it.
if TYPE_CHECKING:
    from etils import epath

# Characters of a final name in a temporary one, which file systems limit to 255 bytes.
_KEPT = 40
_PARTIAL = re.compile(r"\..+\.([0-9a-f]{8}-\d+-\d*)\.[0-9a-f]{16}\.partial", re.S)
# A file of an unknown process that nobody wrote to for so long is nobody's, seconds.
_ABANDONED = 86_400
# Entries of a folder that are searched for what killed processes left.
_MOST_ENTRIES = 100_000


@contextlib.contextmanager
def replacing_file(path: "Path | epath.Path") -> Iterator[BinaryIO]:
    """A new file to write to, which replaces `path` when the block succeeds.

    If the block fails, `path` stays as it was and what was written is removed. Nothing
    that is there already is opened, no link is followed.

    A device or a pipe, such as `/dev/stdout`, is written to as it is: a file in its
    place would take it from every other program.

    Args:
        path: local or in an object store; missing folders above it are created.

    Yields:
        The open file, hidden beside `path` until then; on this machine it can seek.
    """
    if is_special(path):
        with Path(path).open("wb") as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # In a store nothing is seen of a file before it is complete.
    stored = "://" in str(path)
    if not stored:
        _remove_abandoned(os.path.abspath(str(path.parent)))
    name = f".{path.name[:_KEPT]}.{process_mark()}.{secrets.token_hex(8)}.partial"
    # A store has no links, and its clients no mode for new files.
    partial: Any = path.with_name(name) if stored else Path(path.with_name(name))
    try:
        with partial.open("wb" if stored else "xb") as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@functools.lru_cache(maxsize=4096)
def _remove_abandoned(folder: str) -> None:
    """Removes what killed processes left in a folder; once a process and folder."""
    # What cannot be listed or removed does no harm.
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in itertools.islice(entries, _MOST_ENTRIES):
            found = _PARTIAL.fullmatch(entry.name)
            if found and _is_abandoned(found[1], entry):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _is_abandoned(mark: str, entry: os.DirEntry[str]) -> bool:
    running = is_running(mark)
    if running is not None:
        return not running
    try:
        age = time.time() - entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return False
    return age > _ABANDONED


def is_special(path: "Path | epath.Path") -> bool:
    """Whether a path leads to a device, a pipe or a socket."""
    try:
        mode = os.stat(str(path)).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
