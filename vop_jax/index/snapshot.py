"""A copy of a small local index that is read without LanceDB.

Importing LanceDB takes a second, as long as everything else that a query does. The copy
is one NumPy archive in the folder of the index, each part with a checksum. It counts as
long as no table has got a new version; otherwise the tables are read.
"""

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.files.regular_files import open_regular
from data_pipelines.files.replacing import replacing
from vop_jax.index.tables import VideoRow
from vop_jax.index.view import View, in_memory

_NAME = "snapshot.npz"
# The tables that a view is read from, and all.
ROWS = ("moments.lance", "videos.lance")
_ALL = (*ROWS, "meta.lance")
_ARRAYS = ("first", "numbers", "starts", "ends")


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
        about = {
            "stamp": made,
            "records": records,
            "size": view.size,
            "videos": view.videos,
            "rows": [x for x in view.rows.values() if not x.moment_set],
            "refused": view.refused,
        }
        text = json.dumps(about).encode()
        arrays = {name: getattr(view, name) for name in _ARRAYS}
        # Unfinished copies of two processes must not mix.
        with replacing(path, f"{os.getpid()}") as partial, partial.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                about=np.frombuffer(text, np.uint8),
                vectors=view.vectors.astype(np.float16),
                **arrays,
            )


def read(place: Path | str) -> tuple[str, dict[str, Any], View] | None:
    """The copy of an index: its stamp, the records of the store, and the view.

    Returns:
        None if there is no copy, or it is damaged, or of another version.
    """
    made = stamp(place)
    if not made or not isinstance(place, Path):
        return None
    try:
        # NumPy leaves a damaged archive open.
        with (
            open_regular(place / _NAME) as archive,
            np.load(archive, allow_pickle=False) as file,
        ):
            about = json.loads(file["about"].tobytes())
            if about["stamp"] != made:
                return None
            arrays = {name: file[name] for name in _ARRAYS}
            vectors = in_memory(file["vectors"])
        videos = [tuple(VideoRow(*row) for row in rows) for rows in about["videos"]]
        rows = [VideoRow(*row) for row in about["rows"]]
    # What a damaged archive can raise; the tables are read instead.
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    rows += [row for copies in videos for row in copies]
    view = View(
        table=None,
        size=about["size"],
        videos=videos,
        rows={row.path: row for row in rows},
        offsets=np.zeros(0, np.int64),
        vectors=vectors,
        refused=about["refused"],
        **arrays,
    )
    return made, about["records"], view
