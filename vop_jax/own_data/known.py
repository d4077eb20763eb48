"""What is known of the videos and captions of a folder, and whether they changed."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, MaxLen
from typing_extensions import TypedDict

from data_pipelines.console.counted import counted
from data_pipelines.console.terminal import progress
from data_pipelines.decoding.video_files import VideoFiles
from data_pipelines.decoding.video_job import DecodeJob
from data_pipelines.decoding.workers import Workers
from data_pipelines.files.json_files import LARGEST_ANNOTATIONS, read_described
from vop_jax.index.contents import content_of, is_unchanged
from vop_jax.own_data.mistakes import some
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
    return read_described(path, Known, LARGEST_ANNOTATIONS)


def looked_at(pairs: Pairs, files: VideoFiles, workers: Workers) -> Known:
    """Opens every video and reads its metadata; no frame is decoded."""
    jobs = [DecodeJob(str(files.root / x), "", 0, 0) for x in pairs.captions]
    status = {}
    with progress("looking", total=len(jobs), unit="videos") as bar:
        for job, result in workers.run(jobs):
            status[job.video] = result.message if result.status else ""
            bar.advance()
    return {
        "files": {
            path: _about(files.root / path, status[str(files.root / path)])
            for path in pairs.captions
        },
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
    replaced = [
        path
        for path, file in known["files"].items()
        if path in pairs.captions
        and not is_unchanged(
            files.root / path, file["size"], file["mtime_ns"], file["content"]
        )
    ]
    found = [
        f"{counted(len(captions), 'caption')} {word}"
        for word, captions in (("added", new - old), ("removed", old - new))
        if captions
    ]
    if replaced:
        found.append(f"{counted(len(replaced), 'video')} replaced: {some(replaced)}")
    if not found and known["split_of"] != pairs.split_of:
        found.append("the column split changed")
    return "; ".join(found)


def _each(captions: Mapping[str, Iterable[str]]) -> set[tuple[str, str]]:
    return {(path, caption) for path, said in captions.items() for caption in said}


def unreadable(known: Known) -> dict[str, str]:
    """The videos that cannot be read, with the reason."""
    return {
        path: file["unreadable"]
        for path, file in known["files"].items()
        if file["unreadable"]
    }
