"""What videos a folder holds, and their frames decoded ahead."""

import itertools
import os
import queue
import stat
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.errors import UserError
from data_pipelines.frames import VideoError

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("3g2", "3gp", "asf", "avi", "f4v", "flv", "gif", "m2ts", "m4v", "mkv", "mov"),
        *("mp4", "mpeg", "mpg", "mts", "mxf", "ogm", "ogv", "ts", "vob", "webm", "wmv"),
    )
)


class Model(Protocol):
    """What an index needs of a model."""

    @property
    def num_frames(self) -> int:
        """F."""
        ...

    @property
    def fingerprint(self) -> str:
        """Another for every other set of weights."""
        ...

    def read_video(self, path: Path, /) -> UInt8[np.ndarray, "F H W 3"]:
        """The frames of a file, in any thread; raises `VideoError`."""
        ...

    def encode_videos(
        self, frames: UInt8[np.ndarray, "B F H W 3"], /
    ) -> Float[np.ndarray, "B E"]:
        """Their embeddings."""
        ...

    def encode_texts(self, texts: list[str], /) -> Float[np.ndarray, "B E"]:
        """Their embeddings."""
        ...


class File(NamedTuple):
    """A file as it was found; size and time are -1 where a link leads nowhere."""

    path: str
    size: int
    mtime_ns: int


class Unreadable(NamedTuple):
    """A file or folder that gives nothing, one of `frames.STATUSES`, and why."""

    path: str
    status: str
    note: str


class Listing(NamedTuple):
    """What is in a folder: videos, files of other kinds, folders that cannot be read.

    All paths are relative to the folder.
    """

    videos: list[File]
    others: list[str]
    closed: list[Unreadable]


def existing_folder(videos: str | Path) -> Path:
    """The absolute path of a folder of videos.

    Raises:
        UserError: there is none.
    """
    root = Path(videos).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"{root} is no folder; give another --videos")
    return root


def list_videos(root: Path) -> Listing:
    """Lists a folder and all below it, sorted, hidden files and folders left out.

    Links are followed, and no folder is listed twice.

    Raises:
        UserError: the folder itself cannot be read.
    """
    found = Listing([], [], [])
    seen: set[tuple[int, int]] = set()
    # Links to folders come after the tree itself, so that a folder that is reached in
    # both ways goes by its own name.
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
                found.closed.append(Unreadable(folder, "unreadable", note))
                continue
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if _is_folder(entry):
                    (linked if entry.is_symlink() else folders).append(path)
                else:
                    _add_file(entry, path, found)
    return Listing(sorted(found.videos), sorted(found.others), sorted(found.closed))


def _entries(folder: Path, seen: set[tuple[int, int]]) -> list[os.DirEntry]:
    """What is in a folder, sorted; nothing if it has been seen before."""
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
    # A pipe would be waited on for ever.
    if stat.S_ISREG(status.st_mode):
        found.videos.append(File(path, status.st_size, status.st_mtime_ns))
    else:
        found.others.append(path)


def read_frames(model: Model, root: Path, path: str) -> np.ndarray | Unreadable:
    """The frames of a file, `uint8 [F, H, W, 3]`, or why there are none."""
    try:
        return model.read_video(root / path)
    # A damaged file can make a decoder fail in any way, and must not end the run.
    except Exception as error:
        if isinstance(error, VideoError):
            status, note = error.status, str(error)
        else:
            status, note = "unreadable", f"{type(error).__name__}: {error}"
        # It may have gone while it was read, with the share that it is on.
        if not (root / path).is_file():
            status = "missing"
        return Unreadable(path, status, note)


def decode_ahead(
    model: Model, root: Path, files: Sequence[File], ahead: int
) -> Generator[tuple[File, np.ndarray | Unreadable], None, None]:
    """Frames of files as they get done, decoded ahead of whoever takes them."""
    done: queue.SimpleQueue[tuple[File, np.ndarray | Unreadable]] = queue.SimpleQueue()

    def decode(file: File) -> None:
        done.put((file, read_frames(model, root, file.path)))

    workers = os.cpu_count() or 1
    waiting = iter(files)
    pool = ThreadPoolExecutor(workers)
    try:
        # One batch is decoded while another is encoded; more would only take memory.
        for file in itertools.islice(waiting, ahead + 2 * workers):
            pool.submit(decode, file)
        for _ in files:
            yield done.get()
            for file in itertools.islice(waiting, 1):
                pool.submit(decode, file)
    finally:
        pool.shutdown(cancel_futures=True)
