"""The files that a command is to write, compared with each other and its inputs."""

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.console.errors import UserError
from data_pipelines.files.replacing import is_special

if TYPE_CHECKING:
    from etils import epath


def check_outputs(
    outputs: "Mapping[str, Path | epath.Path | None]",
    inputs: "Iterable[tuple[str, Path | epath.Path | str]]",
) -> None:
    """Checks that outputs can be written, and replace neither inputs nor each other.

    Paths are of one file if they lead to one, by links as well. A device or a pipe,
    such as `/dev/null`, may be several.

    Args:
        outputs: flag -> file, None for one that is not written.
        inputs: a flag and a file, or a folder in which nothing may be written; either
            need not exist. A flag may be there several times.

    Raises:
        UserError: one cannot, or does.
    """
    taken = [(flag, _Place(path)) for flag, path in inputs]
    for flag, path in outputs.items():
        if path is None:
            continue
        place = _Place(path)
        if problem := place.problem():
            raise UserError(
                f"--{flag}: {path} cannot be written ({problem}); use another file"
            )
        for other, there in () if place.is_special else taken:
            if place.is_in(there):
                where = f"is inside {there.text}, the folder of"
            elif place.is_of(there):
                where = f"would replace {there.text}, a file of"
            else:
                continue
            raise UserError(f"--{flag}={path} {where} --{other}; use another file")
        taken.append((flag, place))


class _Place:
    """A path with what tells whether another one leads to the same file."""

    def __init__(self, path: "Path | epath.Path | str"):
        self.text = str(path)
        self._file, self.is_special = None, False
        self._in_store = "://" in self.text
        if self._in_store:
            self._path = self.text.rstrip("/")
            return
        self._path = os.path.realpath(self.text)
        try:
            about = os.stat(self._path)
        except (OSError, ValueError):
            return
        self._file = about.st_dev, about.st_ino
        self.is_special = is_special(Path(self._path))

    def problem(self) -> str:
        """Why no file can be put there; empty in a store, which is not asked."""
        if self._in_store or self.is_special:
            return ""
        if os.path.isdir(self.text):
            return os.strerror(errno.EISDIR)
        # What cannot be looked at, such as a name that is too long, cannot be made
        # either.
        try:
            os.lstat(self.text)
        except FileNotFoundError:
            pass
        except OSError as error:
            return error.strerror or str(error)
        except ValueError as error:
            return str(error)
        above = next(x for x in Path(self._path).parents if os.path.exists(x))
        if not above.is_dir():
            return os.strerror(errno.ENOTDIR)
        return "" if os.access(above, os.W_OK) else os.strerror(errno.EACCES)

    def is_in(self, other: "_Place") -> bool:
        """Whether a file at this place is below the other one."""
        return self._path.startswith(f"{other._path.rstrip('/')}/")

    def is_of(self, other: "_Place") -> bool:
        """Whether both are of one file."""
        same = self._file is not None and self._file == other._file
        return same or self._path == other._path
