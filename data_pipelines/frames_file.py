"""The finished frames of one video on disk: whole or not at all.

One line of JSON, then the JPEG files one after another.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class FinishedVideo(NamedTuple):
    """What is kept of a video.

    Attributes:
        frames: JPEG bytes, in order.
        notes: statuses that did no harm, see `frames.STATUSES`.
    """

    frames: list[bytes]
    notes: list[str]


def frames_path(folder: Path, video: Path) -> Path:
    """Where the frames of a file are kept; elsewhere as soon as the file changes."""
    status = video.stat()
    key = f"{video}\0{status.st_size}\0{status.st_mtime_ns}"
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
    # Spread out, because some file systems are slow on a folder of 100,000 files.
    return folder / digest[:2] / digest[2:34]


def write_frames(path: Path, frames: Sequence[bytes], notes: Sequence[str]) -> None:
    """Writes the frames aside and moves them into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may finish the same file, each on its own copy.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    header = {"sizes": [len(frame) for frame in frames], "notes": list(notes)}
    with partial.open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.writelines(frames)
    os.replace(partial, path)


def read_notes(path: Path) -> list[str] | None:
    """The notes of finished frames, which are not read; None as of `read_frames`."""
    try:
        with path.open("rb") as file:
            line = file.readline()
            header = json.loads(line)
            size = os.fstat(file.fileno()).st_size
        whole = len(line) + sum(header["sizes"]) == size
        return header["notes"] if whole else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def read_frames(path: Path) -> FinishedVideo | None:
    """The frames; None where the file is missing or was cut off with its disk."""
    notes = read_notes(path)
    if notes is None:
        return None
    line, _, body = path.read_bytes().partition(b"\n")
    frames, start = [], 0
    for size in json.loads(line)["sizes"]:
        frames.append(body[start : start + size])
        start += size
    return FinishedVideo(frames, notes)
