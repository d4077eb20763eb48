"""A copy of a small local index that is read without LanceDB.

Importing LanceDB takes a second, as long as everything else that a query does. The copy
is one file in the folder of the index. It counts as long as no table has got a new
version, and what it holds is checked as the rows of the tables are: whoever can write
it can write its checksum too. Otherwise the tables are read.
"""

import contextlib
import hashlib
import itertools
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16

from vop_jax.index import snapshot_file
from vop_jax.index.background import Background
from vop_jax.index.meta import Meta
from vop_jax.index.snapshot_file import UnusableError
from vop_jax.index.tables import REMOVED, VideoRow
from vop_jax.index.valid_rows import are_moments, fault_of, in_order
from vop_jax.index.view import View, in_memory

_NAME = "snapshot.bin"
# The tables that a view is read from, and all.
ROWS = ("moments.lance", "videos.lance")
_ALL = (*ROWS, "meta.lance")
_ARRAYS = ("first", "numbers", "starts", "ends", "vectors")


def stamp(place: Path | str, folders: Sequence[str] = _ALL) -> str:
    """Identifies the versions of tables; empty in an object store.

    LanceDB writes a file for each version of a table, and never changes one.

    Args:
        place: of the index.
        folders: of the tables; by default all.
    """
    if not isinstance(place, Path):
        return ""
    found = hashlib.blake2b(digest_size=16)
    try:
        for folder in folders:
            with os.scandir(place / folder / "_versions") as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    about = entry.stat()
                    text = f"{folder}/{entry.name} {about.st_size} {about.st_mtime_ns}"
                    found.update(os.fsencode(text))
    except OSError:
        return ""
    return found.hexdigest()


def write(place: Path | str, made: str, records: dict[str, Any], view: View) -> None:
    """Writes the copy of an index, or removes it if its vectors stay on disk.

    Args:
        place: of the index; nothing is written in an object store.
        made: the stamp from before the view was read.
        records: of the store.
        view: the index.
    """
    if not isinstance(place, Path) or not made:
        return
    path = place / _NAME
    # The copy saves time and nothing else, so an update succeeds without it.
    with contextlib.suppress(OSError):
        if view.vectors is None:
            path.unlink(missing_ok=True)
            return
        # Opening a pipe would wait for its reader.
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            return
        about = {
            "records": records,
            "videos": view.videos,
            "rows": [x for x in view.rows.values() if not x.moment_set],
            "refused": view.refused,
        }
        arrays = {name: getattr(view, name) for name in _ARRAYS}
        snapshot_file.write(path, bytes.fromhex(made), about, arrays, view.size)


def renew(place: Path | str, made: str, records: dict[str, Any], view: View) -> None:
    """Writes the copy anew if there is one that is of these tables and of no use.

    One of older tables stays: whoever is changing them writes the next one.

    Args:
        place: as of `write`, as all others.
        made: likewise.
        records: likewise.
        view: likewise.
    """
    if not isinstance(place, Path) or not made:
        return
    try:
        behind = snapshot_file.stamp_of(place / _NAME) != bytes.fromhex(made)
    except OSError:
        return
    except UnusableError:
        behind = False
    if not behind and stamp(place) == made:
        write(place, made, records, view)


def read(place: Path | str) -> tuple[str, dict[str, Any], View] | None:
    """The copy of an index: its stamp, the records of the store, and the view.

    Returns:
        None if there is no copy, or it is damaged, or of another version.
    """
    made = stamp(place)
    if not made or not isinstance(place, Path):
        return None
    path = place / _NAME
    try:
        if snapshot_file.stamp_of(path) != bytes.fromhex(made):
            return None
        about, arrays = snapshot_file.read(path)
        return made, *_checked(about, arrays)
    # The tables are read instead. Anything of JSON may stand in the place of anything.
    except (OSError, UnusableError, ValueError, TypeError, KeyError, AttributeError):
        return None
    # Of tables that memory does not hold either, these say so.
    except MemoryError:
        return None


def _checked(about: Any, arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], View]:
    """The records and the view that a copy holds.

    Raises:
        UnusableError: they are not such as the tables can give.
        ValueError: likewise, as are the others.
        TypeError: an entry is missing or of another type.
        KeyError: likewise.
        AttributeError: likewise.
    """
    records, refused = about["records"], about["refused"]
    meta = Meta.of(records)
    Background.of(records)
    _need(meta is not None, "nothing says what it was made with")
    assert meta is not None
    _need(type(refused) is list, "its remarks are no list")
    _need(all(x.isprintable() for x in refused), "a remark steers a terminal")
    listed = [*itertools.chain(*about["videos"]), *about["rows"]]
    fault = fault_of(listed)
    _need(not fault, fault)
    videos = [tuple(VideoRow(*x) for x in rows) for rows in about["videos"]]
    rows = [VideoRow(*x) for x in about["rows"]]
    _need(not any(row.moment_set for row in rows), "moments are of no set")
    rows += [row for copies in videos for row in copies]
    by_path = {row.path: row for row in rows}
    _need(len(by_path) == len(rows), "a path is there twice")
    _need(all(row.identity == meta.digest for row in rows), "a video is of no model")
    _need(all(row.status != REMOVED for row in rows), "a video is not there")
    _check_sets(videos, arrays, bool(refused))
    _check_moments(arrays)
    vectors = arrays.pop("vectors")
    _need(vectors.shape[1] == meta.embedding, "its vectors are of another size")
    _need(_is_finite(vectors), "a vector is not finite")
    view = View(
        table=None,
        size=meta.embedding,
        videos=videos,
        rows=by_path,
        offsets=np.zeros(0, np.int64),
        vectors=in_memory(vectors),
        refused=refused,
        **arrays,
    )
    return records, view


def _check_sets(
    videos: Sequence[tuple[VideoRow, ...]],
    arrays: dict[str, np.ndarray],
    some_lost: bool,
) -> None:
    """Checks which moments are of which videos."""
    first = arrays["first"]
    _need(len(first) == len(videos) + 1, "it has another number of sets")
    total = len(arrays["numbers"])
    _need(first[0] == 0 and first[-1] == total, "sets are cut")
    # Differences of larger numbers could overflow.
    _need(((first >= 0) & (first <= total)).all(), "a set is elsewhere")
    counts = np.diff(first)
    _need((counts > 0).all(), "a set is empty")
    names = [rows[0].moment_set if rows else "" for rows in videos]
    _need(all(names) and len(set(names)) == len(names), "a set is there twice")
    _need(
        all(
            row.moment_set == name
            for name, rows in zip(names, videos, strict=True)
            for row in rows
        ),
        "a video is of another set",
    )
    stated = np.array([rows[0].moments for rows in videos], np.int64)
    # Those that are lost are told of.
    _need((counts <= stated).all(), "a video has more moments than it states")
    _need(some_lost or bool((counts == stated).all()), "moments are missing")


def _check_moments(arrays: dict[str, np.ndarray]) -> None:
    """Checks where moments are, and their order in each video."""
    numbers, starts, ends = (arrays[x] for x in ("numbers", "starts", "ends"))
    _need(are_moments(numbers, starts, ends).all(), "a moment cannot be")
    same_set = np.ones(max(0, len(numbers) - 1), bool)
    same_set[arrays["first"][1:-1] - 1] = False
    _need((np.diff(numbers) > 0)[same_set].all(), "numbers are not in order")
    _need(in_order(starts, arrays["first"]).all(), "times are not in order")


def _is_finite(vectors: Float16[np.ndarray, "N E"]) -> bool:
    """Whether all are finite, five times as fast as NumPy tells of this type."""
    if not vectors.size:
        return True
    # The bits of infinity; those that are not a number are larger, of either sign.
    infinity = 0x7C00
    positive, all_signs = vectors.view(np.int16).max(), vectors.view(np.uint16).max()
    return int(positive) < infinity and int(all_signs) < infinity + 0x8000


def _need(right: bool | np.bool_, otherwise: str) -> None:
    if not right:
        raise UnusableError(otherwise)
