"""The SQLite file of an index of videos: what is stored, and who may write to it."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines.errors import UserError
from vop_jax.video_folder import File, Unreadable

FORMAT = 1
OK = "ok"
# Tells SQLite files that are indexes from all others: "vopi".
_APPLICATION_ID = 0x766F7069
# Seconds to wait for another process that is reading or storing.
_WAIT = 60.0
_REASONS = {
    "SQLITE_BUSY": "is in use by another process; try again later",
    "SQLITE_CORRUPT": "is damaged; delete it and index again",
    "SQLITE_FULL": "cannot grow, the disk is full; what is done is kept",
    "SQLITE_NOTADB": "is no index of videos; give another file",
    "SQLITE_READONLY": "cannot be written",
}
# A page of the file holds several embeddings.
_PAGE_SIZE = 16384
# Paths are the bytes that the file system gives, which need not be UTF-8; `meta` holds
# paths too.
_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    """CREATE TABLE files (
        path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        status TEXT NOT NULL, note TEXT NOT NULL, embedding BLOB
    )""",
    f"PRAGMA application_id = {_APPLICATION_ID}",
)


class Row(NamedTuple):
    """A file that was read: `OK` and its embedding, or what is wrong with it."""

    file: File
    status: str
    note: str
    embedding: Float[np.ndarray, "E"] | None


class IndexFile:
    """An open file. Its mistakes are `UserError`s of one line.

    Args:
        path: absolute.
        mode: `rw`, or `rwc` to make it where it is not there. Searching does not write,
            but what a killed process left half stored has to be taken back first.

    Attributes:
        path: as given.
        meta: what the index was made of; empty until something is stored.
    """

    def __init__(self, path: Path, mode: str):
        self.path = path
        self.meta: dict[str, str] = {}
        with self.errors():
            self._db = sqlite3.connect(
                f"{path.as_uri()}?mode={mode}",
                uri=True,
                timeout=_WAIT,
                isolation_level=None,
                # Whoever searches from several threads holds a lock.
                check_same_thread=False,
            )
            try:
                self.read_meta()
            except BaseException:
                self._db.close()
                raise

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Says in one line what SQLite has to say."""
        try:
            yield
        except sqlite3.Error as error:
            name = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
            reason = _REASONS.get(name, f"cannot be used ({error})")
            raise UserError(f"{self.path} {reason}") from None

    @contextlib.contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """All that the block stores, or nothing of it."""
        with self.errors(), self._db:
            self._db.execute(f"BEGIN {kind}")
            yield

    def close(self) -> None:
        """Closes the file; what is not stored yet is dropped."""
        self._db.close()

    def _scalar(self, statement: str) -> Any:
        return self._db.execute(statement).fetchone()[0]

    def read_meta(self) -> None:
        """Reads what the index was made of; an empty file is one yet to be filled.

        Raises:
            UserError: it is another kind of file, or of another format.
        """
        if not self._scalar("SELECT count(*) FROM sqlite_master"):
            return
        if self._scalar("PRAGMA application_id") != _APPLICATION_ID:
            raise UserError(f"{self.path} {_REASONS['SQLITE_NOTADB']}")
        rows = self._db.execute("SELECT name, value FROM meta")
        meta = {name: os.fsdecode(value) for name, value in rows}
        if int(meta["format"]) != FORMAT:
            raise UserError(
                f"{self.path} has format {meta['format']} of a newer vop_jax; this one "
                f"reads format {FORMAT}"
            )
        self.meta = meta

    def write_meta(self, meta: Mapping[str, str], *, empty: bool) -> None:
        """Stores what the index is of, and drops all files if it is to be empty."""
        meta = {"format": str(FORMAT), **meta}
        # Only heeded before anything is stored.
        self._db.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
        with self.transaction():
            if not self.meta:
                for statement in _SCHEMA:
                    self._db.execute(statement)
            elif empty:
                self._db.execute("DELETE FROM files")
            self._db.executemany(
                "REPLACE INTO meta VALUES (?, ?)",
                ((name, os.fsencode(value)) for name, value in meta.items()),
            )
        self.meta = meta

    def known(self) -> dict[File, str]:
        """Every stored file as it was when it was read, and its status."""
        with self.errors():
            rows = self._db.execute("SELECT path, size, mtime_ns, status FROM files")
            return {
                File(os.fsdecode(path), *stamp): status for path, *stamp, status in rows
            }

    def unreadable(self) -> list[Unreadable]:
        """The stored files that have no embedding."""
        with self.errors():
            rows = self._db.execute(
                "SELECT path, status, note FROM files WHERE status != ?", (OK,)
            )
            return [Unreadable(os.fsdecode(path), *why) for path, *why in rows]

    def store(self, rows: Sequence[Row], removed: Sequence[str]) -> None:
        """Stores what was read of files and removes others, at one stroke."""
        values = (
            (
                os.fsencode(row.file.path),
                row.file.size,
                row.file.mtime_ns,
                row.status,
                row.note,
                None
                if row.embedding is None
                else row.embedding.astype("<f4").tobytes(),
            )
            for row in rows
        )
        with self.transaction():
            self._db.executemany(
                "DELETE FROM files WHERE path = ?", ((os.fsencode(x),) for x in removed)
            )
            self._db.executemany("REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", values)

    def version(self) -> int:
        """Another number whenever another process has stored something."""
        with self.errors():
            return self._scalar("PRAGMA data_version")

    def embeddings(self) -> tuple[list[str], Float[np.ndarray, "V E"]]:
        """All that can be searched: paths and embeddings, as of the `meta` then."""
        paths, vectors = [], bytearray()
        with self.transaction("DEFERRED"):
            self.read_meta()
            for path, vector in self._db.execute(
                "SELECT path, embedding FROM files WHERE status = ?", (OK,)
            ):
                paths.append(os.fsdecode(path))
                vectors += vector
        size = int(self.meta["embedding_size"])
        if len(vectors) != 4 * size * len(paths):
            raise UserError(f"{self.path} {_REASONS['SQLITE_CORRUPT']}")
        return paths, np.frombuffer(vectors, "<f4").reshape(len(paths), size)


def open_index(path: Path) -> IndexFile:
    """Opens an index to search it; another process may be filling it meanwhile.

    Raises:
        UserError: there is none.
    """
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; python -m vop_jax.search index makes an index"
        )
    file = IndexFile(path, "rw")
    if not file.meta:
        file.close()
        raise UserError(f"{path} {_REASONS['SQLITE_NOTADB']}")
    return file


@contextlib.contextmanager
def create_index(path: Path) -> Iterator[IndexFile]:
    """Opens an index to fill it, made if need be, for this process alone.

    Raises:
        UserError: another process is filling it, or it cannot be written.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file; give another --output")
    with _only_one(path):
        file = IndexFile(path, "rwc")
        try:
            yield file
        finally:
            file.close()
            # What ended before anything was stored leaves nothing behind.
            if not file.meta:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Lets one process alone fill an index, while others may read it.

    The lock is on a file beside it: SQLite's own locks are only held for a moment, and
    one on the same file would interfere with them.
    """
    beside = path.with_name(f".{path.name}.lock")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                reason = "is being filled by another process"
            else:
                reason = f"cannot be locked ({error.strerror})"
            raise UserError(f"{path} {reason}; give another --output") from None
        # Whoever held it before may have removed it between the two calls.
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)
    try:
        yield
    finally:
        beside.unlink(missing_ok=True)
        os.close(descriptor)
