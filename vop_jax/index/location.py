"""Where an index and its videos are, and which paths it may name."""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from data_pipelines.console.arguments import expanded, is_store
from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable
from data_pipelines.files.regular_files import read_start
from data_pipelines.files.stores import S3_ENDPOINTS
from vop_jax.index.listing import SUFFIXES, PathLike

_SQLITE = b"SQLite format 3\0"
# No path leads to a folder, so LanceDB opens nothing there.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def place_of(path: PathLike) -> "Path | str":
    """The place of an index: an absolute local path, or the URI of an object store.

    Raises:
        UserError: it is neither.
    """
    text = os.fspath(path)
    if is_store(text):
        # `Path` and `etils.epath` collapse or keep the slashes of a URI.
        return text.rstrip("/")
    return expanded(text).absolute()


def existing_place(path: PathLike) -> "Path | str":
    """The place of an index that is to be read.

    Raises:
        UserError: nothing is there, or a file, or it cannot be a place.
    """
    place = place_of(path)
    if isinstance(place, Path) and not os.path.exists(place):
        raise UserError(
            f"{place} does not exist; python -m vop_jax.search index makes an index"
        )
    check_kind(place)
    return place


def storage_options(place: "Path | str") -> dict[str, str]:
    """What the client of an object store needs beside the environment's variables."""
    if isinstance(place, Path):
        return {}
    # A place that does not answer is an error within a minute.
    options = {"client_max_retries": "3", "client_retry_timeout": "30"}
    endpoint = next((os.environ[x] for x in S3_ENDPOINTS if os.environ.get(x)), "")
    if place.startswith("s3://") and endpoint:
        options["aws_endpoint"] = endpoint
        if endpoint.startswith("http://"):
            options["allow_http"] = "true"
    return options


def check_kind(place: "Path | str") -> None:
    """Checks that what is at a place, if anything, may be an index.

    Raises:
        UserError: it is a file.
    """
    if not isinstance(place, Path) or os.path.isdir(place):
        return
    try:
        start = read_start(place, len(_SQLITE))
    except OSError as error:
        if not os.path.exists(place):
            return
        raise UserError(f"{place} cannot be read ({error.strerror})") from None
    if start == _SQLITE:
        raise UserError(
            f"{place} is an index of an older vop_jax, which was one file; delete it "
            "and index again"
        )
    raise UserError(f"{place} is not an index of videos; use another path")


def check_regular(place: Path, tables: Iterable[str]) -> None:
    """Checks that tables hold files and folders alone, as LanceDB opens what it finds.

    Of a pipe in the place of a file it would wait for a writer, without end.

    Args:
        place: of the index.
        tables: names of folders in it.

    Raises:
        UserError: there is a pipe, a device or a socket.
        OSError: a folder cannot be listed, though what is in it might be opened.
    """
    folders, seen = [place / name for name in tables], set()
    while folders:
        for entry in _entries(folders.pop()):
            # Of most entries the listing itself says what they are.
            if entry.is_file(follow_symlinks=False):
                continue
            try:
                about = os.stat(entry.path)
            # A link that leads nowhere, or to itself: where it cannot be looked at, it
            # cannot be opened either, so nothing waits for it. Others are looked at.
            except OSError:
                continue
            if stat.S_ISDIR(about.st_mode):
                key = about.st_dev, about.st_ino
                # The folder of a link is looked at once: it may lead back.
                if not entry.is_symlink() or key not in seen:
                    folders.append(Path(entry.path))
                    seen.add(key)
            elif not stat.S_ISREG(about.st_mode):
                name = printable(os.path.relpath(entry.path, place)[:200])
                raise UserError(
                    f"{place} is damaged: {name} is not a regular file; delete the "
                    "index and index again"
                )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder; none where no path leads to one.

    Raises:
        OSError: it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        if error.errno in _NOWHERE:
            return []
        raise


def is_plain(path: str) -> bool:
    """Whether `index` could have listed a path: below the folder, visible, a video.

    The rows of an index are input like any other; whoever can write them could
    otherwise have any file of this machine shown.
    """
    if not path or "\0" in path or os.path.isabs(path):
        return False
    parts = path.split("/")
    hidden = any(not part or part.startswith(".") for part in parts)
    return not hidden and os.path.splitext(path)[1].lower() in SUFFIXES


def file_below(root: Path, path: str) -> Path:
    """The file of a video of the index.

    Links in the folder are followed, as `list_videos` follows them.

    Raises:
        UserError: the path leaves the folder, or no regular file is there.
    """
    name = printable(path[:200])
    if not is_plain(path):
        raise UserError(f"{name} is not a video below {root}; index again")
    file = root / path
    try:
        regular = stat.S_ISREG(os.stat(file).st_mode)
    except (OSError, ValueError):
        raise UserError(f"{name} is not in {root} any more; index again") from None
    if not regular:
        raise UserError(f"{name} in {root} is not a regular file; index again")
    return file
