"""What is to be said of a folder to search in that holds no video of the index."""

from collections.abc import Collection
from pathlib import Path

from data_pipelines.console.printable import printable
from vop_jax.index.given_paths import folder_named
from vop_jax.index.view import below_folder

# The most folders to name, and the most letters of a path.
_NAMED, _LETTERS = 5, 200


def folder_remark(folder: str, paths: Collection[str], root: Path) -> str:
    """One line; empty if the folder holds a video.

    Args:
        folder: as it was asked for.
        paths: of the videos, relative to `root`.
        root: the folder of the index's videos.
    """
    below = below_folder(folder_named(folder, paths, root))
    if any(path.startswith(below) for path in paths):
        return ""
    told = f"no video of the index is below {printable(folder[:_LETTERS])}"
    names = sorted({path.split("/")[0] for path in paths if "/" in path})
    told = f"{told}, which is relative to {_shown(root)}"
    if not names:
        return f"{told}; there are no folders in it"
    more = ", ..." if len(names) > _NAMED else ""
    listed = ", ".join(printable(name[:_LETTERS]) for name in names[:_NAMED])
    return f"{told}; there are {listed}{more}"


def _shown(root: Path) -> str:
    return printable(str(root)[:_LETTERS])
