"""The files that a command is to write, compared with each other and its inputs."""

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
    inputs: "Iterable[tuple[str, Path | epath.Path]]",
) -> None:
    """Checks that outputs can be written, and replace neither inputs nor each other.

    Paths are of one file if they lead to one, by links as well. A device or a pipe,
    such as `/dev/null`, may be several.

    Args:
        outputs: flag -> file, None for one that is not written.
        inputs: a flag and a file, or a folder of which no file may be replaced; either
            need not exist. A flag may be there several times.

    Raises:
        UserError: one cannot, or does.
    """
    taken = [(flag, _Place(path)) for flag, path in inputs]
    for flag, path in outputs.items():
        if path is None:
            continue
        place = _Place(path)
        if not place.can_be_written():
            raise UserError(f"--{flag}: {path} cannot be written; use another file")
        for other, there in () if place.is_special else taken:
            if place.replaces(there):
                raise UserError(
                    f"--{flag}={path} would replace {there.text}, a file of "
                    f"--{other}; use another file"
                )
        taken.append((flag, place))


class _Place:
    """A path with what tells whether another one leads to the same file."""

    def __init__(self, path: "Path | epath.Path"):
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
        self.is_special = is_special(path)

    def can_be_written(self) -> bool:
        """Whether there is a folder for it; of a store this is not asked."""
        if self._in_store:
            return True
        path = Path(self.text)
        parent = next(x for x in path.absolute().parents if os.path.exists(x))
        return (
            not os.path.isdir(path) and parent.is_dir() and os.access(parent, os.W_OK)
        )

    def replaces(self, other: "_Place") -> bool:
        """Whether a file at this place is the other one, or in that folder."""
        if self._file is not None and self._file == other._file:
            return True
        return f"{self._path}/".startswith(f"{other._path.rstrip('/')}/")
