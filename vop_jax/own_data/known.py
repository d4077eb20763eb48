"""What is known of the videos and captions of a folder, and whether they changed."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, MaxLen
from typing_extensions import TypedDict

from data_pipelines.console.counted import counted
from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable
from data_pipelines.console.terminal import each_shown, progress
from data_pipelines.decoding.video_files import VideoFiles
from data_pipelines.decoding.video_job import DecodeJob
from data_pipelines.decoding.workers import Workers
from data_pipelines.files.json_files import LARGEST_ANNOTATIONS, read_described
from vop_jax.index.contents import content_of, is_unchanged
from vop_jax.own_data.mistakes import rows_of, some
from vop_jax.own_data.pairs import Pairs

_Text = Annotated[str, MaxLen(10_000)]


class KnownFile(TypedDict):
    """A video file as it was looked at; `unreadable` is empty for a good one."""

    size: Annotated[int, Ge(0)]
    mtime_ns: int
    content: _Text
    unreadable: _Text


class Known(TypedDict):
    """What `own_data.json` holds: the files by path, the captions and the split."""

    files: dict[str, KnownFile]
    captions: dict[str, list[str]]
    split_of: dict[str, str]


def read_known(path: Path) -> Known | None:
    """Reads what an earlier command left; None if there is nothing.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return None
    known = read_described(path, Known, LARGEST_ANNOTATIONS)
    unknown = [x for x in known["captions"] if x not in known["files"]]
    if unknown or len(known["files"]) != len(known["captions"]):
        raise UserError(
            f"{path}: its files and its captions are not of the same videos; use "
            "another --output"
        )
    return known


def looked_at(pairs: Pairs, files: VideoFiles, workers: Workers) -> Known:
    """Opens every video and reads its metadata; no frame is decoded."""
    path_of = {str(files.root / x): x for x in pairs.captions}
    jobs = [DecodeJob(x, "", 0, 0) for x in path_of]
    found: dict[str, KnownFile] = {}
    with progress("looking", total=len(jobs), unit="videos") as bar:
        for job, result in workers.run(jobs):
            unreadable = result.message if result.status else ""
            found[path_of[job.video]] = _about(Path(job.video), unreadable)
            bar.advance()
    return {
        # In the order of the captions, not in that of the workers.
        "files": {path: found[path] for path in pairs.captions},
        "captions": pairs.captions,
        "split_of": pairs.split_of,
    }


def _about(path: Path, unreadable: str) -> KnownFile:
    about = os.stat(path)
    return {
        "size": about.st_size,
        "mtime_ns": about.st_mtime_ns,
        "content": content_of(path, about.st_size),
        "unreadable": unreadable,
    }


def changes(known: Known, pairs: Pairs, files: VideoFiles) -> str:
    """How videos and captions differ from what is known; empty if they do not."""
    old, new = _each(known["captions"]), _each(pairs.captions)
    others = replaced(known, [x for x in known["files"] if x in pairs.captions], files)
    found = [
        f"{counted(len(captions), 'caption')} {word}"
        for word, captions in (("added", new - old), ("removed", old - new))
        if captions
    ]
    if others:
        found.append(f"{counted(len(others), 'video')} replaced: {some(others)}")
    if not found and known["split_of"] != pairs.split_of:
        found.append("the column split changed")
    return "; ".join(found)


def replaced(known: Known, videos: Iterable[str], files: VideoFiles) -> list[str]:
    """Those of some videos whose files are not what they were when looked at."""
    moved = [x for x in videos if not _has_its_time(known["files"][x], files.root / x)]
    # As of a copied folder, whose films all have another time: their content decides.
    found = []
    for video in each_shown("comparing", moved, "videos"):
        file = known["files"][video]
        listed = file["size"], file["mtime_ns"], file["content"]
        if not is_unchanged(files.root / video, *listed):
            found.append(video)
    return found


def _has_its_time(file: KnownFile, path: Path) -> bool:
    try:
        about = os.stat(path)
    except OSError:
        return False
    return (about.st_size, about.st_mtime_ns) == (file["size"], file["mtime_ns"])


def _each(captions: Mapping[str, Iterable[str]]) -> set[tuple[str, str]]:
    return {(path, caption) for path, said in captions.items() for caption in said}


def unreadable(known: Known) -> dict[str, str]:
    """The videos that cannot be read, with the reason."""
    return {
        path: file["unreadable"]
        for path, file in known["files"].items()
        if file["unreadable"]
    }


def unreadable_lines(
    bad: Mapping[str, str], rows: Mapping[str, Sequence[int]], files: VideoFiles
) -> list[str]:
    """A line for each reason: the rows, the videos, and why they cannot be read.

    Args:
        bad: as `unreadable` returns it.
        rows: of each video, the numbers of its rows.
        files: of the folder of videos.
    """
    kinds: dict[str, list[str]] = {}
    for video, reason in bad.items():
        # The reasons name their file, by which each would be a kind of its own.
        reason = reason.replace(printable(str(files.root / video)), "it")
        kinds.setdefault(reason, []).append(video)
    lines = []
    for reason, videos in kinds.items():
        numbers = [row for video in videos for row in rows[video]]
        lines.append(f"{rows_of(numbers)}: {some(videos)} cannot be read ({reason})")
    return lines
