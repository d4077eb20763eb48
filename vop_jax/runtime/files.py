"""Atomic writing of files, locally or in an object store."""

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.console.errors import UserError
from data_pipelines.files.replacing import replacing_file

if TYPE_CHECKING:
    from etils import epath


def as_path(name: "epath.PathLike") -> "epath.Path":
    """A local path, made absolute, or a path in an object store such as gs://bucket."""
    # Imported late, for a fast start of commands that have no such path.
    from etils import epath

    path = epath.Path(name)
    return path if "://" in str(path) else path.expanduser().resolve()


def write_atomically(path: "Path | epath.Path", content: str | bytes) -> None:
    """Replaces a file in one move, so that no reader ever sees half of it."""
    if isinstance(content, str):
        content = content.encode()
    with replacing_file(path) as file:
        file.write(content)


def write_output(path: "Path | epath.Path", content: str | bytes) -> None:
    """Writes a file that the command line asks for, atomically.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        reason = error.strerror or error
    # The clients of object stores raise errors of their own.
    except Exception as error:
        if "://" not in str(path):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    else:
        return
    raise UserError(f"{path} cannot be written ({reason})")


_FULL = re.compile(
    r"no space left|quota exceeded|file too large|RESOURCE_EXHAUSTED", re.I
)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, is that of a full disk."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
    ):
        return True
    # From C++ code below Orbax only the text remains; device memory runs out similarly.
    text = str(error)
    if _FULL.search(text) and "memory" not in text.lower():
        return True
    return is_full(error.__cause__ or error.__context__)


@contextlib.contextmanager
def in_room(*places: object) -> Iterator[None]:
    """Turns the error of a full disk into one line while the block writes files.

    Raises:
        UserError: there is no room left.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_full(error):
            raise
        raise UserError(
            f"no room is left for {' or '.join(map(str, places))}; make some and run "
            "the same command again, it resumes from the last complete checkpoint"
        ) from error
