"""The store of an index: three LanceDB tables in a folder or an object store.

Any number of processes may append at once: LanceDB commits each append as a new version
of the table, and repeats it if another process was faster.
"""

import contextlib
import json
import os
import random
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable
from data_pipelines.files.json_files import shown
from vop_jax.index.location import check_kind, check_regular, storage_options
from vop_jax.index.store_errors import reading
from vop_jax.index.tables import (
    FORMAT,
    MomentRow,
    VideoRow,
    meta_schema,
    moments_schema,
    moments_table,
    videos_schema,
    videos_table,
)

# LanceDB's name of an index of the column `vector`.
GRAPH = "vector_idx"
MOMENTS, VIDEOS, META = "moments", "videos", "meta"
# What a commit says that lost against another process's.
_CONFLICT = re.compile(
    r"conflict|concurrent|already exists|contention|preconditi|retryable", re.I
)
_TRIES = 30
# What LanceDB logs unless LANCEDB_LOG says otherwise: without what it says of damage in
# the history of a table, which no answer depends on.
_LOG = "warn,lance::dataset=error"
# Seconds after which another look at an object store's versions is worth its time.
_REMOTE_LOOK = 5.0
# Of the columns of `videos`; paths are stored as bytes.
_TYPES = [{**VideoRow.__annotations__, "path": bytes}[x] for x in VideoRow._fields]
# The most bytes of a record.
_RECORD = 1 << 20
# Bytes that a commit takes beside its rows, and how much larger rows may be on disk.
_ROOM, _MORE = 4 << 20, 1.25


class Store:
    """An open store. Its errors are `UserError`s of one line.

    Args:
        place: an absolute local path, or the URI of an object store.

    Raises:
        UserError: it cannot be used.
    """

    def __init__(self, place: Path | str):
        check_kind(place)
        self.place = place
        self._tables: dict[str, Any] = {}
        self._looked, self._seen = -1e9, ()
        with self.errors():
            os.environ.setdefault("LANCEDB_LOG", _LOG)
            import lancedb

            # LanceDB creates the folder; without tables it is removed again.
            self._new = isinstance(place, Path) and not place.exists()
            if isinstance(place, Path) and not self._new and any(place.iterdir()):
                _check_folder(place)
            self._db = lancedb.connect(
                str(place),
                read_consistency_interval=timedelta(0),
                storage_options=storage_options(place),
            )
            names = set(self._db.list_tables().tables)
            for name in (MOMENTS, VIDEOS, META):
                if name in names:
                    self._tables[name] = self._db.open_table(name)

    def close(self) -> None:
        """Releases the tables; a folder that was created for nothing is removed."""
        if not self._tables and isinstance(self.place, Path) and self._new:
            with contextlib.suppress(OSError):
                self.place.rmdir()
        self._tables = {}

    @property
    def is_begun(self) -> bool:
        """Whether it has its tables."""
        return len(self._tables) == 3

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Turns an error of the store into one line."""
        return reading(self.place)

    def begin(self, size: int) -> None:
        """Creates the tables that are missing.

        Args:
            size: E, of the embeddings.
        """
        schemas = {
            MOMENTS: moments_schema(size),
            VIDEOS: videos_schema(),
            META: meta_schema(),
        }
        for name, schema in schemas.items():
            if name not in self._tables:

                def create(name: str = name, schema: Any = schema) -> Any:
                    return self._db.create_table(name, schema=schema, exist_ok=True)

                self._tables[name] = self._committed(create)
        if self._vector_size() != size:
            raise UserError(
                f"{self.place} holds embeddings of another size; index with --rebuild"
            )

    def empty(self) -> None:
        """Drops all rows, for a rebuild."""
        # `meta` last: until then the index is one of the old model without videos.
        for name in (VIDEOS, MOMENTS, META):
            if name in self._tables:
                self._committed(lambda name=name: self._db.drop_table(name))
                del self._tables[name]

    def _vector_size(self) -> int:
        with self.errors():
            return self._tables[MOMENTS].schema.field("vector").type.list_size

    def version(self) -> tuple[int, ...]:
        """Changes when any process has stored something."""
        look = 0.0 if isinstance(self.place, Path) else _REMOTE_LOOK
        if time.monotonic() - self._looked >= look:
            with self.errors():
                self._seen = tuple(x.version for x in self._tables.values())
            self._looked = time.monotonic()
        return self._seen

    def append(self, moments: Sequence[MomentRow], videos: Sequence[VideoRow]) -> None:
        """Stores moments, then the videos they belong to."""
        if moments:
            rows = moments_table(moments, self._vector_size())
            self.check_room(rows.nbytes)
            self._committed(lambda: self._tables[MOMENTS].add(rows))
        if videos:
            found = videos_table(videos)
            self.check_room(found.nbytes)
            self._committed(lambda: self._tables[VIDEOS].add(found))
        self._looked = -1e9

    def check_room(self, count: int) -> None:
        """Checks that a local disk has room before anything is written to it.

        LanceDB may commit a file that a full disk has cut, and the table is lost then.

        Args:
            count: bytes.

        Raises:
            UserError: there is no room.
        """
        if not isinstance(self.place, Path):
            return
        with self.errors(), tempfile.TemporaryFile(dir=self.place) as file:
            os.posix_fallocate(file.fileno(), 0, int(_MORE * count) + _ROOM)

    def size(self) -> int:
        """Bytes of all rows."""
        with self.errors():
            return sum(_bytes_of(x) for x in self._tables.values())

    def record(self, name: str, value: Any) -> None:
        """Appends a record to `meta`; the value is anything that JSON can hold."""
        import pyarrow as pa

        # Paths that are not UTF-8 hold lone surrogates, which only escapes can carry.
        data = json.dumps(value, ensure_ascii=True).encode()
        row = {"name": [name], "value": [data], "checksum": [_checksum(name, data)]}
        table = pa.table(row, schema=meta_schema())
        self._committed(lambda: self._tables[META].add(table))
        self._looked = -1e9

    def records(self) -> dict[str, Any]:
        """The records of `meta`: the first `identity`, of others the last.

        Raises:
            UserError: one is damaged.
        """
        if not self.is_begun:
            return {}
        found: dict[str, Any] = {}
        rows = self.scan(self._tables[META], ["name", "value", "checksum"])
        with self.errors():
            for row in rows.to_pylist():
                if _checksum(row["name"], row["value"]) != row["checksum"]:
                    raise UserError(f"{self.place} is damaged; delete it, index again")
                if row["name"] != "identity" or row["name"] not in found:
                    found[row["name"]] = self._record(row["name"], row["value"])
        identity = found.get("identity", {})
        if not isinstance(identity, dict):
            raise UserError(f"{self.place} holds records that are not its own")
        made = identity.get("format", FORMAT)
        if made != FORMAT:
            raise UserError(
                f"{self.place} has format {shown(made)} of a newer vop_jax; this one "
                f"reads format {FORMAT}"
            )
        return found

    def _record(self, name: str | None, value: bytes | None) -> Any:
        """The value of a record.

        Raises:
            UserError: it is not JSON, or longer than any of an index.
        """
        try:
            if value and len(value) <= _RECORD:
                return json.loads(value)
        except (ValueError, RecursionError):
            pass
        raise UserError(
            f"{self.place} holds records that are not its own ({shown(name, ascii)} is "
            "not JSON of an index)"
        )

    def videos(self) -> tuple[list[VideoRow], list[str]]:
        """All rows of `videos` in the order of their ids, and what is damaged."""
        if not self.is_begun:
            return [], []
        columns = [*VideoRow._fields, "checksum"]
        rows, refused = [], []
        table = self.scan(self._tables[VIDEOS], columns)
        with self.errors():
            listed = [table[name].to_pylist() for name in columns]
            for *values, checksum in zip(*listed, strict=True):
                row = _video_row(values)
                if row is not None and row.checksum() == checksum:
                    rows.append(row)
                else:
                    path = values[1] if type(values[1]) is bytes else b"a video"
                    name = printable(path.decode(errors="replace")[:200])
                    refused.append(f"{name}: its row is damaged")
        return sorted(rows), refused

    def pinned(self) -> Any:
        """`moments` as it is now, whatever is stored later."""
        with self.errors():
            table = self._db.open_table(MOMENTS)
            table.checkout(table.version)
            return table

    def scan(self, table: Any, columns: Sequence[str], where: str = "") -> Any:
        """The columns of all rows of a table, or of some, as an Arrow table."""
        with self.errors():
            query = table.search().select(list(columns)).limit(table.count_rows() or 1)
            return (query.where(where) if where else query).to_arrow()

    def moments(self) -> Any:
        """The table `moments`, of which later reads see later versions."""
        return self._tables[MOMENTS]

    def has_graph(self) -> bool:
        """Whether there is an approximate index of the vectors."""
        with self.errors():
            return any(x.name == GRAPH for x in self.moments().list_indices())

    def delete(self, sets: Sequence[str], videos: Sequence[str]) -> None:
        """Deletes sets of moments, and rows of videos, by id."""
        pairs = ((VIDEOS, "id", videos), (MOMENTS, "moment_set", sets))
        for name, column, ids in pairs:
            for i in range(0, len(ids), 1000):
                listed = ", ".join(f"'{x}'" for x in ids[i : i + 1000])
                where = f"{column} IN ({listed})"
                self._committed(
                    lambda name=name, where=where: self._tables[name].delete(where)
                )
        self._looked = -1e9

    def tidy(self, age: float) -> None:
        """Joins small files, adds rows to the indices, and drops old versions.

        Args:
            age: least age of a version that is dropped, seconds.
        """
        for table in self._tables.values():
            self._committed(
                lambda table=table: table.optimize(
                    cleanup_older_than=timedelta(seconds=age)
                )
            )
        self._looked = -1e9

    def _committed(self, action: Callable[[], Any]) -> Any:
        """Runs an action that commits, again if another process was faster."""
        with self.errors():
            for attempt in range(_TRIES):
                try:
                    return action()
                except Exception as error:
                    if attempt == _TRIES - 1 or not _CONFLICT.search(str(error)):
                        raise
                    time.sleep(random.uniform(0, min(2.0, 0.02 * 2**attempt)))
        raise AssertionError("unreachable")


def _bytes_of(table: Any) -> int:
    return table.stats()["total_bytes"]


def _check_folder(place: Path) -> None:
    tables = [f"{name}.lance" for name in (MOMENTS, VIDEOS, META)]
    if any((place / name).is_dir() for name in tables):
        check_regular(place, tables)
    else:
        raise UserError(
            f"{place} is a folder of other files; use another path for the index"
        )


def _checksum(name: str | None, data: bytes | None) -> int:
    return zlib.crc32(data or b"", zlib.crc32((name or "").encode()))


def _video_row(values: Sequence[Any]) -> VideoRow | None:
    """A row as stored; None if a value is missing or of another type."""
    if not all(type(x) is kind for x, kind in zip(values, _TYPES, strict=True)):
        return None
    row = VideoRow(*values)
    return row._replace(path=os.fsdecode(values[1]))
