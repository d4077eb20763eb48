"""Finds the videos of a folder by their stems (file names without suffixes)."""

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

from data_pipelines.catalog.annotations import Video
from data_pipelines.console.arguments import is_store
from data_pipelines.console.counted import counted
from data_pipelines.console.errors import UserError
from data_pipelines.console.names import shortened
from data_pipelines.console.store_names import is_plain
from data_pipelines.console.terminal import warn

if TYPE_CHECKING:
    from etils import epath

    from data_pipelines.files.stores import Listed

# Suffixes that converters leave in the middle of a name: `X.3gp.mp4` is X.
_ENDINGS = frozenset(
    (
        *("3g2", "3gp", "asf", "avi", "divx", "f4v", "flv", "gif", "m2ts", "m4v"),
        *("mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts", "vob", "webm", "wmv"),
    )
)
# Suffixes of files that lie beside videos under the same stem and are not videos.
_OTHERS = frozenset(
    (
        *("csv", "info", "jpg", "jpeg", "json", "jsonl", "md", "npy", "part", "pkl"),
        *("png", "srt", "tsv", "txt", "vtt", "wav", "webp", "mp3", "xml", "zip"),
    )
)


class VideoFiles:
    """The files of a folder, here or in an object store, listed once.

    Attributes:
        root: the folder.

    Raises:
        UserError: there is no such folder, or a part of it cannot be read.
    """

    def __init__(self, root: "str | Path | epath.Path"):
        self._listed: dict[str, Listed] | None = None
        if is_store(str(root)):
            # Imported late: only an object store needs them.
            from etils import epath

            from data_pipelines.files.stores import Store

            # Paths alone; what is read there is read by `Store`.
            self.root = cast(Path, epath.Path(root))
            self._listed = _visible(_usable(str(root), Store(root).files()))
            if not self._listed:
                raise UserError(f"{root} holds no files; use another --videos")
        else:
            self.root = Path(root).expanduser().absolute()
            if not self.root.is_dir():
                raise UserError(f"{self.root} is not a folder; use another --videos")
        found: dict[str, list[tuple[int, str]]] = {}
        for path in _walk(self.root) if self._listed is None else self._listed:
            for stripped, stem in enumerate(_stems(os.path.basename(path))):
                found.setdefault(stem, []).append((stripped, path))
        # The fewer suffixes are removed the better the match; then the path decides.
        self._by_stem = {stem: sorted(paths) for stem, paths in found.items()}

    def find(self, stems: Sequence[str]) -> Path | None:
        """The file of the first of these stems that has one; None if none has."""
        path = next(self.named(stems), None)
        return None if path is None else self.root / path

    def named(self, stems: Iterable[str]) -> Iterator[str]:
        """Yields all files of these stems, relative to the folder, best match first."""
        for stem in stems:
            for _, path in self._by_stem.get(unicodedata.normalize("NFC", stem), ()):
                yield path

    def paths(self) -> list[str]:
        """All files that may be videos, relative to the folder, sorted."""
        return sorted({path for found in self._by_stem.values() for _, path in found})

    def at(self, path: str) -> Path | None:
        """The file at a path relative to the folder; None if there is none."""
        file = self.root / path
        if self._listed is not None:
            # In a folder `./a.mp4` is `a.mp4`; a key is a text.
            return file if str(PurePosixPath(path)) in self._listed else None
        try:
            # A pipe, for example, exists as well and is later reported as unreadable.
            return None if stat.S_ISDIR(os.stat(file).st_mode) else file
        except PermissionError:
            return file
        # None is there, or can have such a name.
        except (OSError, ValueError):
            return None

    def about(self, file: Path) -> tuple[int, int]:
        """The size of a file in bytes, and when it was written, ns since 1970.

        Both are 0 of a file of this machine that cannot be looked at, which its decoder
        says more of.
        """
        if self._listed is not None:
            return self._listed[str(file)[len(str(self.root)) :].lstrip("/")]
        try:
            status = file.stat()
        except OSError:
            return 0, 0
        return status.st_size, status.st_mtime_ns


def _usable(root: str, listed: "dict[str, Listed]") -> "dict[str, Listed]":
    """The objects of a listing whose keys are paths; tells of the others."""
    odd = sorted(name for name in listed if not is_plain(name))
    if odd:
        warn(
            f"{counted(len(odd), 'object')} of {root} left out, whose keys are not "
            f"paths of files, such as {shortened(odd[0])}; rename them"
        )
    return {name: about for name, about in listed.items() if is_plain(name)}


def _visible(listed: "dict[str, Listed]") -> "dict[str, Listed]":
    """The files of a listing but hidden ones and those in hidden folders."""
    return {
        name: about
        for name, about in listed.items()
        if not any(part.startswith(".") for part in name.split("/"))
    }


def find_video(files: VideoFiles, video: Video, by_path: bool) -> Path | None:
    """The file of an annotated video; None if there is none."""
    return files.at(video.files[0]) if by_path else files.find(video.files)


def _walk(root: Path) -> Iterator[str]:
    """The paths of all files but hidden ones, relative to the folder."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from None

    seen: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(folder)
        # A link to a parent folder would be followed forever.
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root)


def _stems(name: str) -> Iterator[str]:
    """The possible stems of a file name, the longest first."""
    stem, dot, ending = unicodedata.normalize("NFC", name).rpartition(".")
    if not dot:
        yield ending
        return
    if ending.lower() in _OTHERS:
        return
    yield stem
    while "." in stem:
        stem, _, ending = stem.rpartition(".")
        if ending and ending.lower() not in _ENDINGS:
            return
        yield stem
