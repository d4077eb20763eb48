"""The prepared frames of one video on disk, written atomically.

The format is one line of JSON, then the JPEG files one after another.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.files.replacing import replacing_file


class FinishedVideo(NamedTuple):
    """The stored frames of a video.

    Attributes:
        frames: JPEG bytes, in order.
        notes: harmless statuses, of `video_status.NOTES`.
    """

    frames: list[bytes]
    notes: list[str]


def frames_path(folder: Path, video: Path) -> Path:
    """Where the frames of a video file are stored; changes when the file changes."""
    status = video.stat()
    key = f"{video}\0{status.st_size}\0{status.st_mtime_ns}"
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
    # In 256 subfolders, because some file systems are slow with 100,000 files in one.
    return folder / digest[:2] / digest[2:34]


def write_frames(path: Path, frames: Sequence[bytes], notes: Sequence[str]) -> None:
    """Writes the frames atomically."""
    header = {"sizes": [len(frame) for frame in frames], "notes": list(notes)}
    # Several processes may finish the same file at the same time.
    with replacing_file(path) as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.writelines(frames)


def read_notes(path: Path) -> list[str] | None:
    """The notes alone, without the frames; None as for `read_frames`."""
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
    """Reads the frames; None if the file is missing or truncated (by a crash)."""
    notes = read_notes(path)
    if notes is None:
        return None
    line, _, body = path.read_bytes().partition(b"\n")
    frames, start = [], 0
    for size in json.loads(line)["sizes"]:
        frames.append(body[start : start + size])
        start += size
    return FinishedVideo(frames, notes)
