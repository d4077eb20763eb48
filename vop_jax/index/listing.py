"""Lists the videos of a folder."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipelines.console.errors import UserError

PathLike = str | os.PathLike[str]
SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("3g2", "3gp", "asf", "avi", "f4v", "flv", "gif", "m2ts", "m4v", "mkv", "mov"),
        *("mp4", "mpeg", "mpg", "mts", "mxf", "ogm", "ogv", "ts", "vob", "webm", "wmv"),
    )
)


class File(NamedTuple):
    """A file as listed; size and time are -1 for a broken link."""

    path: str
    size: int
    mtime_ns: int


class Unreadable(NamedTuple):
    """An unreadable file or folder, its status (`video_status.STATUSES`), and why."""

    path: str
    status: str
    note: str


class Listing(NamedTuple):
    """The content of a folder: videos, other files, unreadable folders.

    All paths are relative to the folder.
    """

    videos: list[File]
    others: list[str]
    closed: list[Unreadable]


def existing_folder(videos: PathLike) -> Path:
    """The absolute path of a folder of videos.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(videos).expanduser().absolute()
    if not os.path.isdir(root):
        raise UserError(f"{root} is not a folder; use another --videos")
    return root


def list_videos(root: Path) -> Listing:
    """Lists a folder recursively, sorted, without hidden files and folders.

    Links are followed, and no folder is listed twice.

    Raises:
        UserError: the folder itself cannot be read, or holds no video.
    """
    found = Listing([], [], [])
    for entry, path in _files(root, found.closed):
        _add_file(entry, path, found)
    _check_videos(root, found)
    return Listing(sorted(found.videos), sorted(found.others), sorted(found.closed))


def check_holds_videos(root: Path) -> None:
    """Checks that `list_videos` lists a folder; reads no further than the first video.

    Raises:
        UserError: as there.
    """
    found = Listing([], [], [])
    for entry, path in _files(root, found.closed):
        _add_file(entry, path, found)
        if found.videos:
            break
    _check_videos(root, found)


def _check_videos(root: Path, found: Listing) -> None:
    if not found.videos:
        raise UserError(f"{root} holds no video; use another --videos")


def _files(root: Path, closed: list[Unreadable]) -> Iterator[tuple[os.DirEntry, str]]:
    """What is below a folder and no folder, with its path relative to it.

    Folders that cannot be read are added to `closed`.

    Raises:
        UserError: the folder itself cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    # Links to folders are followed after the tree itself, so that a folder that is
    # reachable in both ways is listed under its own name.
    linked = [""]
    for start in linked:
        folders = [start]
        while folders:
            folder = folders.pop()
            try:
                entries = _entries(root / folder, seen)
            except OSError as error:
                note = error.strerror or str(error)
                if not folder:
                    raise UserError(f"{root} cannot be read ({note})") from None
                closed.append(Unreadable(folder, "unreadable", note))
                continue
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if _is_folder(entry):
                    (linked if entry.is_symlink() else folders).append(path)
                else:
                    yield entry, path


def _entries(folder: Path, seen: set[tuple[int, int]]) -> list[os.DirEntry]:
    """The entries of a folder, sorted; none if it has been listed before."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return []
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        return sorted(
            (entry for entry in entries if not entry.name.startswith(".")),
            key=lambda entry: entry.name,
        )


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    # A link to itself, for example.
    except OSError:
        return False


def _add_file(entry: os.DirEntry, path: str, found: Listing) -> None:
    if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
        found.others.append(path)
        return
    try:
        status = entry.stat()
    except OSError:
        found.videos.append(File(path, -1, -1))
        return
    # Reading a pipe would block forever.
    if stat.S_ISREG(status.st_mode):
        found.videos.append(File(path, status.st_size, status.st_mtime_ns))
    else:
        found.others.append(path)
