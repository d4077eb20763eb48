"""One's own videos: a CSV with a header, or JSONL, of `video` and `caption`."""

import collections
import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_pipelines.annotations import (
    Annotations,
    expect,
    fields,
    parse_json,
    read_lines,
    read_table,
)
from data_pipelines.errors import UserError

SPLITS = ("train", "validation", "test")
SUFFIXES = (".csv", ".jsonl")
# What splits are called elsewhere.
_OTHER_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}
# One video of so many is for the test, another for validation.
_SHARE = 10


def read(path: Path) -> Annotations:
    """Rows of `video`, `caption` and if wanted `split` and `video_id`.

    A video that repeats has several captions. Without a split a tenth of the videos
    each is for the test and for validation, chosen by a hash of their ids.

    Args:
        path: the file, or a folder that holds one such file.

    Raises:
        UserError: a row that cannot be used, or a video in two splits.
    """
    path = _file(path)
    found = Annotations({}, [path], by_path=True)
    files: dict[str, str] = {}
    split_of: dict[str, str] = {}
    captions: dict[str, list[str]] = collections.defaultdict(list)
    for where, row in _rows(path):
        video = row["video"].strip()
        if not video:
            raise UserError(f"{where}: the video is empty; name a file")
        video_id = row.get("video_id", "").strip() or _id_of(video)
        split = row.get("split", "").strip().lower()
        split = _OTHER_NAMES.get(split, split)
        if split and split not in SPLITS:
            raise UserError(f"{where}: split is {split!r}; use {', '.join(SPLITS)}")
        for kept, new, what in (
            (files.setdefault(video_id, video), video, "video"),
            (split_of.setdefault(video_id, split), split, "split"),
        ):
            if kept != new:
                raise UserError(
                    f"{where}: {what} of {video_id!r} is {new!r}, but {kept!r} further "
                    "up; give each video one"
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
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path} must be a .csv or a .jsonl file")
        return path
    files = sorted(x for x in path.iterdir() if x.suffix in SUFFIXES)
    if len(files) != 1:
        raise UserError(
            f"{path} holds {len(files)} .csv and .jsonl files; give the right one "
            "as --annotations"
        )
    return files[0]


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row is, and its values."""
    if path.suffix == ".csv":
        for number, row in read_table(path, ["video", "caption"]):
            yield f"{path}, line {number}", row
        return
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        row = parse_json(line, where)
        fields(row, ["video", "caption"], where)
        # Other columns are somebody else's.
        known = ("video", "caption", "split", "video_id")
        yield (
            where,
            {
                key: expect(value, str, f"{where}: {key}")
                for key, value in row.items()
                if key in known
            },
        )


def _id_of(video: str) -> str:
    """The path without its ending: two folders may hold files of the same name."""
    return str(PurePosixPath(video).with_suffix(""))


def _by_split(path: Path, split_of: dict[str, str]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    named = sum(bool(split) for split in split_of.values())
    if named not in (0, len(split_of)):
        some = next(x for x, split in split_of.items() if not split)
        raise UserError(
            f"{path}: {some!r} has no split, while others have; fill the column or "
            "remove it"
        )
    if not named:
        split_of = _hashed_splits(path, list(split_of))
    for video_id, split in split_of.items():
        ids[split].append(video_id)
    return ids


def _hashed_splits(path: Path, ids: list[str]) -> dict[str, str]:
    """A tenth each for test and validation, the same whatever the order of the rows."""
    if len(ids) < 3:
        raise UserError(
            f"{path} names {len(ids)} videos; to be split in three it must name 3, or "
            "have a column split"
        )
    size = max(1, len(ids) // _SHARE)
    order = sorted(ids, key=lambda x: hashlib.sha256(x.encode()).digest())
    held = dict.fromkeys(order[:size], "test")
    held |= dict.fromkeys(order[size : 2 * size], "validation")
    return {video_id: held.get(video_id, "train") for video_id in ids}
