"""Videos and folders as people write them: which of the index they mean."""

import dataclasses
import itertools
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from data_pipelines.console.names import ask, closest
from data_pipelines.console.printable import printable
from vop_jax.index.answers import Filters, NotInTheIndexError
from vop_jax.index.view import below_folder

# The most names that a mistyped one is compared with, letter by letter.
_COMPARED = 2_000


def video_named(video: str, paths: Collection[str], root: Path) -> str:
    """The path of a video of the index, relative to its folder.

    Args:
        video: that path, or an absolute one, or one relative to the working folder.
        paths: of the videos.
        root: the folder of the index's videos.

    Raises:
        NotInTheIndexError: there is none; close names are suggested.
    """
    for path in _spellings(video, root):
        if path in paths:
            return path
    whole, name = video.casefold(), os.path.basename(video).casefold()
    alike = (
        path
        for path in paths
        if path.casefold() == whole or os.path.basename(path).casefold() == name
    )
    near = [*itertools.islice(alike, 3)]
    near = near or closest(video, itertools.islice(paths, _COMPARED))
    shown = ask(printable(path[:200]) for path in near)
    raise NotInTheIndexError(f"{printable(video[:200])} is not in the index{shown}")


def folder_named(folder: str, paths: Collection[str], root: Path) -> str:
    """The folder relative to that of the index; as it was given if it holds no video.

    Args:
        folder: as of `video_named`.
        paths: of the videos.
        root: the folder of the index's videos.
    """
    for spelled in _spellings(folder, root):
        below = below_folder(spelled)
        if any(path.startswith(below) for path in paths):
            return spelled
    return folder


def located(filters: Filters, paths: Collection[str], root: Path) -> Filters:
    """The filters with their folder relative to that of the index."""
    if not filters.folder:
        return filters
    folder = folder_named(filters.folder, paths, root)
    return dataclasses.replace(filters, folder=folder)


def _spellings(path: str, root: Path) -> Iterator[str]:
    yield path
    yield os.path.normpath(path)
    try:
        yield os.path.relpath(os.path.abspath(path), root)
    # The working folder is gone.
    except OSError:
        return
