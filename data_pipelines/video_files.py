"""The videos of a folder, found by stem."""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines.annotations import Video
from data_pipelines.errors import UserError

# Endings that a converter leaves in the middle of a name: `X.3gp.mp4` is X.
_ENDINGS = frozenset(
    (
        *("3g2", "3gp", "asf", "avi", "divx", "f4v", "flv", "gif", "m2ts", "m4v"),
        *("mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts", "vob", "webm", "wmv"),
    )
)
# What lies beside videos under the same stem and is none.
_OTHERS = frozenset(
    (
        *("csv", "info", "jpg", "jpeg", "json", "jsonl", "md", "npy", "part", "pkl"),
        *("png", "srt", "tsv", "txt", "vtt", "wav", "webp", "mp3", "xml", "zip"),
    )
)


class VideoFiles:
    """A folder, walked through once.

    Attributes:
        root: the folder.

    Raises:
        UserError: there is no such folder, or a part of it cannot be read.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser().absolute()
        if not self.root.is_dir():
            raise UserError(f"{self.root} is no folder; give another --videos")
        found: dict[str, list[tuple[int, str]]] = {}
        for path in _walk(self.root):
            for stripped, stem in enumerate(_stems(os.path.basename(path))):
                found.setdefault(stem, []).append((stripped, path))
        # The fewer endings a name has lost the nearer it is; then the path decides.
        self._by_stem = {stem: sorted(paths) for stem, paths in found.items()}

    def find(self, stems: Sequence[str]) -> Path | None:
        """The file of the first of these stems that has one, None where none has."""
        for stem in stems:
            paths = self._by_stem.get(unicodedata.normalize("NFC", stem))
            if paths:
                return self.root / paths[0][1]
        return None

    def at(self, path: str) -> Path | None:
        """The file of that path, relative to the folder; None where there is none."""
        file = self.root / path
        return file if file.is_file() else None


def find_video(files: VideoFiles, video: Video, by_path: bool) -> Path | None:
    """The file of an annotated video, None where there is none."""
    return files.at(video.files[0]) if by_path else files.find(video.files)


def _walk(root: Path) -> Iterator[str]:
    """The paths of all files, relative to the folder; hidden ones are left out."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from None

    seen: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(folder)
        # A link that leads back up would be followed for ever.
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root)


def _stems(name: str) -> Iterator[str]:
    """What a file may be called without its endings, the longest first."""
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
