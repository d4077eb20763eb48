"""Reads your own data set: CSV with a header, or JSONL, of `video` and `caption`."""

import collections
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NotRequired

from typing_extensions import TypedDict

from data_pipelines.catalog.annotations import Annotations, Wrong, wrong_id
from data_pipelines.catalog.readers import read_lines, read_table
from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, parse_json, shown

SPLITS = ("train", "validation", "test")
SUFFIXES = (".csv", ".jsonl")
# Other common names of the splits.
_OTHER_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}
# One in this many videos is for the test, another for validation.
_SHARE = 10
# Longest part of a path in bytes, on most file systems.
_LONGEST_PART = 255


class Row(TypedDict):
    """A line of a JSONL file; other keys are ignored."""

    video: str
    caption: str
    split: NotRequired[str]
    video_id: NotRequired[str]


def read(path: Path) -> Annotations:
    """Reads rows of `video`, `caption` and optionally `split` and `video_id`.

    A video in several rows has several captions. Without a column `split`, a tenth of
    the videos each is for the test and for validation, chosen by a hash of their ids.

    Args:
        path: the file, or a folder that holds one such file.

    Raises:
        UserError: a row is invalid, or a video is in two splits.
    """
    path = _file(path)
    found = Annotations({}, [path], by_path=True)
    files: dict[str, str] = {}
    split_of: dict[str, str] = {}
    captions: dict[str, list[str]] = collections.defaultdict(list)
    for where, row in _rows(path):
        video = row["video"].strip()
        check_path(video, where)
        video_id = row.get("video_id", "").strip() or id_of(video)
        split = split_called(row.get("split", ""))
        if split and split not in SPLITS:
            raise UserError(
                f"{where}: split is {shown(split, repr)}; use {', '.join(SPLITS)}"
            )
        for kept, new, what in (
            (files.setdefault(video_id, video), video, "video"),
            (split_of.setdefault(video_id, split), split, "split"),
        ):
            if kept != new:
                raise UserError(
                    f"{where}: {what} of {shown(video_id, repr)} is "
                    f"{shown(new, repr)}, but {shown(kept, repr)} further up; use "
                    "one for each video"
                )
        captions[video_id].append(row["caption"])
    if not files:
        raise UserError(f"{path} has no rows")
    ids = _by_split(path, split_of)
    for split in SPLITS:
        if ids[split]:
            named = {video_id: (files[video_id],) for video_id in ids[split]}
            found.add_split(split, ids[split], captions, files=named)
    return found


def _file(path: Path) -> Path:
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} must be a .csv or a .jsonl file")
        return path
    try:
        files = sorted(x for x in path.iterdir() if x.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if len(files) != 1:
        raise UserError(
            f"{path} holds {len(files)} .csv and .jsonl files; pass the right one "
            "as --annotations"
        )
    return files[0]


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields the place of each row, for messages, and its values."""
    if path.suffix.lower() == ".csv":
        for number, row in read_table(path, ["video", "caption"]):
            yield f"{path}, line {number}", row
        return
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        row = described(parse_json(line, where), Row, where)
        yield where, row


def split_called(name: str) -> str:
    """The split that a name means; another name as it is, in lower case."""
    name = name.strip().lower()
    return _OTHER_NAMES.get(name, name)


def wrong_path(video: str) -> Wrong | None:
    """Why a video is not named by a path inside the folder of videos; None if it is."""
    if not video:
        return Wrong("the video is empty", "name a file")
    if wrong := wrong_id(video):
        return wrong
    path = PurePosixPath(video)
    if path.is_absolute() or ".." in path.parts or not path.name:
        return Wrong(
            "the video is not a path inside the folder of videos",
            "name it relative to --videos",
        )
    if max(len(part.encode()) for part in path.parts) > _LONGEST_PART:
        return Wrong(
            f"the video has a part of more than {_LONGEST_PART} bytes, which no file "
            "is called",
            "use the name of its file",
        )
    return None


def check_path(video: str, where: str) -> None:
    """Checks that a video is named by a path inside the folder of videos.

    Raises:
        UserError: it is not.
    """
    if wrong := wrong_path(video):
        name = f": {shown(video, repr)}" if video else ""
        raise UserError(f"{where}: {wrong.what}{name}; {wrong.advice}")


def id_of(video: str) -> str:
    """A video's id, its path without suffix: two folders may hold one file name."""
    return str(PurePosixPath(video).with_suffix(""))


def _by_split(path: Path, split_of: dict[str, str]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    named = sum(bool(split) for split in split_of.values())
    if named not in (0, len(split_of)):
        some = next(x for x, split in split_of.items() if not split)
        raise UserError(
            f"{path}: {shown(some, repr)} has no split, while others have; fill the "
            "column or remove it"
        )
    if not named:
        if len(split_of) < 3:
            raise UserError(
                f"{path} names {len(split_of)} videos; to be split in three it must "
                "name 3, or have a column split"
            )
        split_of = hashed_splits(list(split_of))
    for video_id, split in split_of.items():
        ids[split].append(video_id)
    return ids


def hashed_splits(ids: Sequence[str], least: int = 1) -> dict[str, str]:
    """A tenth each for test and validation, the same whatever the order of the rows.

    Args:
        ids: of the videos.
        least: the fewest videos of test and of validation.
    """
    size = max(least, len(ids) // _SHARE)
    order = sorted(ids, key=lambda x: hashlib.sha256(x.encode()).digest())
    held = dict.fromkeys(order[:size], "test")
    held |= dict.fromkeys(order[size : 2 * size], "validation")
    return {video_id: held.get(video_id, "train") for video_id in ids}
