"""The videos and captions that are trained on, from a file of captions and a folder."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from data_pipelines.console.counted import counted
from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import inform
from data_pipelines.datasets.custom.annotations import (
    SPLITS,
    check_path,
    hashed_splits,
    id_of,
    split_called,
)
from data_pipelines.decoding.video_files import VideoFiles
from vop_jax.index.listing import SUFFIXES
from vop_jax.own_data.captions_file import CaptionsFile, Row
from vop_jax.own_data.mistakes import Mistake, refuse, rows_of, some

# Fewest videos of each split: with one candidate every answer is right, and with one
# training video there is nothing to tell it from.
LEAST = 2


class Pairs(NamedTuple):
    """Videos with their captions, in the order of the file.

    Attributes:
        captions: path of each video, relative to the folder -> its captions.
        rows: of each video, the numbers of its rows.
        split_of: of each video, where the file says so; else empty.
    """

    captions: dict[str, list[str]]
    rows: dict[str, list[int]]
    split_of: dict[str, str]

    def without(self, videos: Sequence[str]) -> "Pairs":
        """The same without some videos."""
        kept = {x: y for x, y in self.captions.items() if x not in set(videos)}
        return self._replace(captions=kept)


def pairs_of(table: CaptionsFile, files: VideoFiles, *, leave_out: bool) -> Pairs:
    """Checks each row against the folder, and gathers the captions of each video.

    Args:
        table: the file of captions.
        files: of the folder of videos.
        leave_out: whether rows with mistakes are left out.

    Raises:
        UserError: there are mistakes in the rows.
    """
    mistakes, good = list(table.mistakes), []
    for row in table.rows:
        found = _mistake_in(row, files)
        if found:
            mistakes.append(found)
        else:
            good.append(row._replace(video=str(PurePosixPath(row.video))))
    splits, wrong = _splits_of(good)
    mistakes += wrong
    refuse(table.path, sorted(mistakes, key=lambda x: x.row), leave_out=leave_out)
    left = {x.row for x in wrong}
    return _gathered(table.path, [x for x in good if x.number not in left], splits)


def _mistake_in(row: Row, files: VideoFiles) -> Mistake | None:
    """What is wrong with a row by itself, if anything."""
    try:
        check_path(row.video, "")
    except UserError as error:
        # It says where, what, and what to do.
        what, _, advice = str(error).removeprefix(": ").rpartition("; ")
        return Mistake(row.number, what, advice)
    if not row.caption:
        return Mistake(row.number, "the caption is empty", "write one, or delete it")
    if "\0" in row.caption:
        return Mistake(row.number, "the caption holds a null character", "remove it")
    if files.at(row.video) is None:
        return _unknown(row, files)
    split = split_called(row.split)
    if split and split not in SPLITS:
        advice = f"use {', '.join(SPLITS)}"
        return Mistake(row.number, "not the name of a split", advice, row.split[:40])
    return None


def _unknown(row: Row, files: VideoFiles) -> Mistake:
    """The mistake of a video that is not there, with the file that may be meant."""
    name = PureWindowsPath(row.video).name if "\\" in row.video else row.video
    stem = PurePosixPath(name).name
    near = files.find([stem, PurePosixPath(stem).stem])
    named = row.video[:200]
    if near is not None:
        named += f" (is it {near.relative_to(files.root)}?)"
    advice = "correct the names, or add the files"
    return Mistake(row.number, f"no such file below {files.root}", advice, named)


def _splits_of(rows: Sequence[Row]) -> tuple[dict[str, str], list[Mistake]]:
    """The split of each video if the file has that column, and its mistakes."""
    if not any(row.split for row in rows):
        return {}, []
    split_of: dict[str, str] = {}
    mistakes = []
    for row in rows:
        split = split_called(row.split)
        if not split:
            advice = "fill it, or remove the column"
            mistakes.append(Mistake(row.number, "the split is empty", advice))
        elif split_of.setdefault(row.video, split) != split:
            what, advice = "a video in a second split", "use one split for each video"
            mistakes.append(Mistake(row.number, what, advice, row.video))
    return split_of, mistakes


def _gathered(path: Path, rows: Sequence[Row], split_of: dict[str, str]) -> Pairs:
    captions: dict[str, list[str]] = {}
    numbers: dict[str, list[int]] = {}
    repeated = []
    for row in rows:
        said = captions.setdefault(row.video, [])
        numbers.setdefault(row.video, []).append(row.number)
        if row.caption in said:
            repeated.append(row.number)
        else:
            said.append(row.caption)
    if repeated:
        inform(
            f"{path}, {rows_of(repeated)}: the same video and caption as further up; "
            "used once"
        )
    return Pairs(captions, numbers, split_of)


def tell_unused(pairs: Pairs, files: VideoFiles) -> None:
    """Tells which videos of the folder have no caption."""
    unused = [
        path
        for path in files.paths()
        if path not in pairs.captions and Path(path).suffix.lower() in SUFFIXES
    ]
    if unused:
        inform(
            f"{counted(len(unused), 'video')} of {files.root} without a caption, not "
            f"used: {some(unused)}"
        )


def with_splits(path: Path, pairs: Pairs) -> Pairs:
    """The pairs with a split for every video: the file's, or a tenth each held out.

    Args:
        path: the file of captions, for messages.
        pairs: of the videos that can be read.

    Raises:
        UserError: there are too few videos, or nothing that tells them apart.
    """
    videos = list(pairs.captions)
    split_of = {x: pairs.split_of[x] for x in videos if x in pairs.split_of}
    needed = LEAST * len(SPLITS)
    if not split_of and len(videos) < needed:
        raise UserError(
            f"{path} has {counted(len(videos), 'video')} with captions that can be "
            f"used; {needed} are the fewest, {LEAST} each to train on, to validate and "
            "to test: add videos"
        )
    said = {" ".join(x.lower().split()) for y in pairs.captions.values() for x in y}
    if len(said) == 1:
        raise UserError(
            f"{path}: all captions are the same, {said.pop()[:60]!r}, so that no video "
            "can be told from another; write what each of them shows"
        )
    if not split_of:
        ids = _ids(videos)
        held = hashed_splits(list(ids.values()), LEAST)
        split_of = {x: held[ids[x]] for x in videos}
    counts = Counter(split_of.values())
    # Without a validation split, training videos are held out for it.
    for split in ("train", "test"):
        if counts[split] < LEAST:
            raise UserError(
                f"{path}: the column split has {counted(counts[split], 'video')} for "
                f"{split}; {LEAST} are the fewest, name more, or remove the column"
            )
    return pairs._replace(split_of=split_of)


def as_csv(pairs: Pairs) -> str:
    """The pairs as the file that the data set `custom` is prepared from."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("video", "caption", "split", "video_id"))
    ids = _ids(list(pairs.captions))
    for video, captions in pairs.captions.items():
        row = (video, pairs.split_of[video], ids[video])
        writer.writerows((row[0], caption, *row[1:]) for caption in captions)
    return text.getvalue()


def _ids(videos: Sequence[str]) -> Mapping[str, str]:
    """The usual id of each video; its path where another has the same."""
    times = Counter(map(id_of, videos))
    return {x: id_of(x) if times[id_of(x)] == 1 else x for x in videos}
