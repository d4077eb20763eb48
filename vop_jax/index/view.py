"""An index in memory: which moments are there, checked, and how similar they are."""

import dataclasses
import functools
import math
import os
import posixpath
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable
from vop_jax.index.answers import BeyondTheEndError, Filters
from vop_jax.index.location import is_plain
from vop_jax.index.store import Store
from vop_jax.index.tables import REMOVED, VideoRow, checksums, vectors_of
from vop_jax.index.valid_rows import are_moments, faults_in, in_order

# From so many moments on, an approximate index on disk answers instead of memory.
EXACT_BELOW = 100_000
_COLUMNS = ("moment_set", "number", "start", "end")
_CHECKED = ("vector", "checksum")
# Embeddings that are held at once as float32.
_BLOCK = 65_536


@dataclasses.dataclass(frozen=True)
class View:
    """The moments of an index at one version, ordered by set and number.

    Attributes:
        table: `moments` at that version; None of a snapshot.
        size: E.
        videos: of each set, the videos with this content, by path.
        rows: all rows of `videos` that count, by path, also those without moments.
        first: of each set, the place of its first moment; and the total behind.
        numbers: of each moment, its position in its video.
        starts: seconds.
        ends: seconds.
        offsets: of each moment, its row in the table; empty without one.
        vectors: of each moment; None if they stay on disk.
        refused: rows that are damaged, with the reason.
    """

    table: Any
    size: int
    videos: list[tuple[VideoRow, ...]]
    rows: dict[str, VideoRow]
    first: Int[np.ndarray, "S+1"]
    numbers: Int[np.ndarray, "N"]
    starts: Float[np.ndarray, "N"]
    ends: Float[np.ndarray, "N"]
    offsets: Int[np.ndarray, "N"]
    vectors: Float[np.ndarray, "N E"] | None
    refused: list[str]

    def __len__(self) -> int:
        return len(self.numbers)

    @functools.cached_property
    def place_of(self) -> dict[str, int]:
        """Set id -> its place."""
        return {videos[0].moment_set: i for i, videos in enumerate(self.videos)}

    def set_of(self, moments: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """The set of each moment."""
        return np.searchsorted(self.first, moments, side="right") - 1

    def moment_at(self, row: VideoRow, time: float) -> int:
        """The moment of a video that shows a time.

        Raises:
            BeyondTheEndError: the video ends before.
            UserError: the video has no moments.
        """
        place = self.place_of.get(row.moment_set)
        if place is None:
            raise UserError(f"{printable(row.path)} has no moments in the index")
        first, behind = self.first[place], self.first[place + 1]
        self.check_time(row, time)
        inside = np.searchsorted(self.starts[first:behind], time, side="right") - 1
        return int(first + max(0, inside))

    def check_time(self, row: VideoRow, time: float) -> None:
        """Checks that a video does not end before a time, seconds.

        Raises:
            BeyondTheEndError: it does.
        """
        place = self.place_of.get(row.moment_set)
        last = 0.0 if place is None else self.ends[self.first[place + 1] - 1]
        # Rounded up, since times are named in milliseconds.
        length = math.ceil(1000 * max(row.duration, last)) / 1000
        if time > length:
            raise BeyondTheEndError(
                f"{printable(row.path[:200])} is {length:.12g} seconds long; "
                f"{time:.12g} is behind its end"
            )

    def moment_named(self, name: str) -> int | None:
        """The moment of an id `SET.NUMBER`; None if there is none."""
        moment_set, _, number = name.partition(".")
        place = self.place_of.get(moment_set)
        if place is None or not re.fullmatch("[0-9]{1,9}", number):
            return None
        first, behind = self.first[place], self.first[place + 1]
        at = int(first + np.searchsorted(self.numbers[first:behind], int(number)))
        return at if at < behind and self.numbers[at] == int(number) else None

    def id_of(self, moment: int) -> str:
        """The id of a moment."""
        place = int(self.set_of(np.array([moment]))[0])
        return f"{self.videos[place][0].moment_set}.{self.numbers[moment]}"

    def thumbnail(self, moment: int) -> bytes | None:
        """The JPEG of a moment; None if it is damaged."""
        columns = ["moment_set", "number", "thumbnail", "thumbnail_checksum"]
        query = self.table.take_offsets([int(self.offsets[moment])]).select(columns)
        (row,) = query.to_arrow().to_pylist()
        picture = row["thumbnail"] or b""
        good = zlib.crc32(picture) == row["thumbnail_checksum"]
        right = f"{row['moment_set']}.{row['number']}" == self.id_of(moment)
        return picture if good and right and picture else None

    def allowed(self, filters: Filters) -> Bool[np.ndarray, "S"] | None:
        """Which sets a search considers; None if all."""
        if filters == Filters():
            return None
        passes = passing(filters)
        return np.array([any(map(passes, x)) for x in self.videos], bool)

    def counted(
        self, filters: Filters, allowed: Bool[np.ndarray, "S"] | None
    ) -> tuple[int, int]:
        """How many videos and moments a search considers; `allowed` is of the same."""
        if allowed is None:
            return sum(map(len, self.videos)), len(self)
        passes = passing(filters)
        sets = [self.videos[i] for i in np.flatnonzero(allowed)]
        moments = int(np.diff(self.first)[allowed].sum())
        return sum(passes(row) for rows in sets for row in rows), moments

    def take(
        self, moments: Int[np.ndarray, "n"]
    ) -> tuple[Float[np.ndarray, "n E"], list[str]]:
        """Vectors of moments; NaN for a damaged one, which is also named."""
        if self.vectors is not None:
            return self.vectors[moments].astype(np.float32), []
        order = np.argsort(self.offsets[moments])
        wanted = self.offsets[moments][order].tolist()
        query = self.table.take_offsets(wanted).select([*_COLUMNS, *_CHECKED])
        good, found = _checked(query.to_arrow(), self.size)
        vectors = np.full((len(moments), self.size), np.nan, np.float32)
        vectors[order] = np.where(good[:, None], found, np.nan)
        return vectors, [
            self.name(int(moments[order[i]])) for i in np.flatnonzero(~good)
        ]

    def name(self, moment: int) -> str:
        """A damaged moment, in words."""
        row = self.videos[int(self.set_of(np.array([moment]))[0])][0]
        start, end = self.starts[moment], self.ends[moment]
        return f"{printable(row.path)} {start:.1f}-{end:.1f} s: damaged"


def below_folder(folder: str) -> str:
    """How the paths below a folder begin."""
    # As a shell completes it: "./a/" is "a", and "." is all.
    folder = posixpath.normpath(folder.strip("/"))
    return "" if folder == "." else folder + "/"


def passing(filters: Filters) -> Callable[[VideoRow], bool]:
    """Whether a video passes the filters."""
    below = below_folder(filters.folder)

    def passes(row: VideoRow) -> bool:
        seconds, changed = row.duration, row.mtime_ns / 1e9
        return (
            row.path.startswith(below)
            and (filters.min_seconds is None or seconds >= filters.min_seconds)
            and (filters.max_seconds is None or seconds <= filters.max_seconds)
            and (filters.since is None or changed >= filters.since)
            and (filters.until is None or changed <= filters.until)
        )

    return passes


def newest(rows: Iterable[VideoRow], identity: str) -> dict[str, VideoRow]:
    """The row of each path that counts.

    Args:
        rows: in the order of their ids.
        identity: digest; rows of another model do not count.
    """
    found = {row.path: row for row in rows if row.identity == identity}
    return {path: row for path, row in found.items() if row.status != REMOVED}


def read_view(store: Store, size: int, identity: str) -> View:
    """Reads an index.

    Args:
        store: the store.
        size: E.
        identity: digest of the index.

    Raises:
        UserError: the store cannot be read.
    """
    # Before the moments: a row of a video is stored after its moments.
    listed, refused = store.videos()
    rows = newest(listed, identity)
    for path, fault in faults_in(rows).items():
        refused.append(f"{printable(path[:200])}: {fault}")
        del rows[path]
    table = store.pinned()
    with store.errors():
        found_size = table.schema.field("vector").type.list_size
        if found_size != size:
            raise UserError(
                f"{store.place} is damaged: its vectors have {found_size} numbers, not "
                f"{size}; delete it and index again"
            )
        # Vectors stay on disk if there are many, and an index to find them with.
        stay = table.count_rows() >= EXACT_BELOW and store.has_graph()
    columns = [*_COLUMNS, *(() if stay else _CHECKED)]
    found = store.scan(table, columns)
    with store.errors():
        return _assembled(table, size, rows, found, refused)


def _assembled(
    table: Any, size: int, rows: dict[str, VideoRow], found: Any, refused: list[str]
) -> View:
    by_set: dict[str, list[VideoRow]] = {}
    for path in sorted(rows):
        if rows[path].moment_set:
            by_set.setdefault(rows[path].moment_set, []).append(rows[path])
    sets = sorted(by_set)
    codes = _codes(found["moment_set"], sets)
    numbers = _numbers(found, "number")
    good, vectors = np.ones(len(codes), bool), None
    if "vector" in found.column_names:
        good, vectors = _checked(found, size)
    starts, ends = _numbers(found, "start"), _numbers(found, "end")
    good &= are_moments(numbers, starts, ends)
    live = np.flatnonzero(codes >= 0)
    # An append that was repeated may have stored a moment twice: one is as good as
    # the other, and a good one is better than a damaged one.
    live = live[np.lexsort((~good[live], numbers[live], codes[live]))]
    first = np.ones(len(live), bool)
    first[1:] = np.diff(codes[live]) | np.diff(numbers[live])
    live = live[first]
    bounds = np.searchsorted(codes[live], np.arange(len(sets) + 1))
    good[live] &= in_order(np.where(good, starts, 0.0)[live], bounds)
    for i, name in enumerate(sets):
        row, part = by_set[name][0], live[bounds[i] : bounds[i + 1]]
        lost = row.moments - int(good[part].sum())
        if lost:
            refused.append(
                f"{printable(row.path)}: {lost:,} of {row.moments:,} moments are "
                "damaged or missing"
            )
    live = live[good[live]]
    held, counts = np.unique(codes[live], return_counts=True)
    return View(
        table=table,
        size=size,
        videos=[tuple(by_set[sets[i]]) for i in held],
        rows=rows,
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        numbers=numbers[live],
        starts=starts[live],
        ends=ends[live],
        offsets=live,
        vectors=None if vectors is None else in_memory(vectors[live]),
        refused=refused,
    )


def in_memory(vectors: Float[np.ndarray, "N E"]) -> Float[np.ndarray, "N E"]:
    """As float32, which multiplies without conversion, unless there are many."""
    return vectors.astype(np.float32) if len(vectors) < EXACT_BELOW else vectors


def _codes(column: Any, sets: Sequence[str]) -> Int[np.ndarray, "N"]:
    """The place of each row's set among the sorted `sets`; -1 for any other."""
    import pyarrow as pa

    if not len(column):
        return np.zeros(0, np.int64)
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    known = {name: i for i, name in enumerate(sets)}
    table = np.array([known.get(x, -1) for x in encoded.dictionary.to_pylist()] or [-1])
    return table[encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)]


def _numbers(found: Any, name: str) -> np.ndarray:
    """A column of numbers; a damaged table may lack some."""
    return found[name].fill_null(0).to_numpy()


def _checked(found: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are as they were stored, and finite; and their vectors, float16."""
    vectors = vectors_of(found["vector"], size)
    sums = checksums(
        [str(name) for name in found["moment_set"].to_pylist()],
        _numbers(found, "number"),
        _numbers(found, "start"),
        _numbers(found, "end"),
        vectors,
    )
    stored = _numbers(found, "checksum")
    return (sums == stored) & np.isfinite(vectors).all(axis=1), vectors


def blocks_of(view: View) -> Iterator[Float[np.ndarray, "n E"]]:
    """The embeddings of all moments in parts, NaN for damaged ones."""
    for first in range(0, len(view), _BLOCK):
        yield view.take(np.arange(first, min(first + _BLOCK, len(view))))[0]


def exists(root: Any, row: VideoRow) -> bool:
    """Whether the file of a video is there now."""
    try:
        return is_plain(row.path) and os.path.isfile(root / row.path)
    except (OSError, ValueError):
        return False
