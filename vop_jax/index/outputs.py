"""Where the search commands may write, found out before the work is done."""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.console.errors import UserError

if TYPE_CHECKING:
    from etils import epath


def check_output(
    name: str, path: "Path | epath.Path | None", index: Path | str
) -> None:
    """Checks that a file can be written, and that it is none of an index.

    Args:
        name: of the flag.
        path: the file, local or in an object store; None if none is to be written.
        index: an absolute local path, or the URI of an object store.

    Raises:
        UserError: it cannot, or it is inside the index.
    """
    if path is None:
        return
    local = isinstance(index, Path)
    place = os.path.realpath(index) if local else index
    target = str(path) if "://" in str(path) else os.path.realpath(path)
    if target == place or target.startswith(place + "/"):
        raise UserError(f"--{name}: {path} is inside the index; use another file")
    problem = "" if "://" in target else _problem_of(target)
    if problem:
        raise UserError(f"--{name}: {path} cannot be written ({problem})")


def _problem_of(path: str) -> str:
    """Why no file can be put there; a device such as `/dev/stdout` is written to."""
    if os.path.exists(path) and not os.path.isfile(path):
        number = errno.EISDIR if os.path.isdir(path) else errno.EACCES
        writable = number == errno.EACCES and os.access(path, os.W_OK)
        return "" if writable else os.strerror(number)
    # What cannot be looked at, such as a name that is too long, cannot be made either.
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)
    above = next(x for x in Path(path).parents if os.path.exists(x))
    if not above.is_dir():
        return os.strerror(errno.ENOTDIR)
    return "" if os.access(above, os.W_OK) else os.strerror(errno.EACCES)
