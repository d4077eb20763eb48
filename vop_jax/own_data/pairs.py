"""The videos and captions that are trained on, from a file of captions and a folder."""

import csv
import io
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from data_pipelines.catalog.annotations import LONGEST_CAPTION, Wrong
from data_pipelines.console.counted import counted
from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import each_shown, inform
from data_pipelines.datasets.custom.annotations import (
    SPLITS,
    hashed_splits,
    id_of,
    split_called,
    wrong_path,
)
from data_pipelines.decoding.video_files import VideoFiles
from data_pipelines.files.json_files import shown
from vop_jax.index.listing import SUFFIXES
from vop_jax.own_data.captions_file import CaptionsFile, Row
from vop_jax.own_data.mistakes import Mistake, refuse, rows_of, some

# Fewest videos of each split: with one candidate every answer is right, and with one
# training video there is nothing to tell it from.
LEAST = 2
# Of a name in a message, characters.
_LONGEST_NAME = 200
# Files of one stem that are looked at for the one that may be meant.
_NEAR = 20


class Pairs(NamedTuple):
    """Videos with their captions, in the order of the file.

    Attributes:
        captions: path of each video, relative to the folder -> its captions.
        rows: of each video, the numbers of its rows.
        split_of: of each video, where the file says so; else empty.
        named: the paths of all rows, also of those that are left out.
    """

    captions: dict[str, list[str]]
    rows: dict[str, list[int]]
    split_of: dict[str, str]
    named: frozenset[str] = frozenset()

    def without(self, videos: Sequence[str]) -> "Pairs":
        """The same without some videos."""
        left = set(videos)
        kept = {x: y for x, y in self.captions.items() if x not in left}
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
    places = _places(dict.fromkeys(row.video for row in table.rows), files)
    mistakes, good = list(table.mistakes), []
    for row in table.rows:
        place = places[row.video]
        if found := _mistake_in(row, place):
            mistakes.append(found)
        else:
            good.append(row._replace(video=place.video))
    splits, wrong = _splits_of(good)
    mistakes += wrong
    refuse(table.path, sorted(mistakes, key=lambda x: x.row), leave_out=leave_out)
    left = {x.row for x in wrong}
    used = [x for x in good if x.number not in left]
    named = frozenset(_one_form(x.video) for x in table.rows)
    return _gathered(table.path, used, splits)._replace(named=named)


class _Place(NamedTuple):
    """Where a video of the table is, or why it is nowhere.

    Attributes:
        video: its path, as the folder spells it.
        wrong: what is wrong with it and what to do; None if it is there.
        name: of what is wrong.
    """

    video: str
    wrong: Wrong | None = None
    name: str = ""


def _places(videos: Collection[str], files: VideoFiles) -> dict[str, _Place]:
    """Looks up every video once, however many rows it has."""
    looked_up = each_shown("checking", videos, "videos")
    return {video: _place_of(video, files) for video in looked_up}


def _place_of(video: str, files: VideoFiles) -> _Place:
    if wrong := wrong_path(video):
        # The name is apart, so that the rows of one kind are told in one line.
        return _Place(video, wrong, shown(video, repr) if video else "")
    path = str(PurePosixPath(video))
    if files.at(path) is not None:
        return _Place(path)
    name = video[:_LONGEST_NAME]
    # What `at` does not find although there is something of that name.
    if os.path.islink(files.root / path):
        advice = "correct the links, or add their files"
        return _Place(path, Wrong("a link that leads nowhere", advice), name)
    if os.path.isdir(files.root / path):
        return _Place(path, Wrong("a folder, not a video", "name its files"), name)
    if spelled := _spelled(path, files):
        return _Place(spelled)
    if near := _meant(video, files):
        name += f" (is it {near[:_LONGEST_NAME]}?)"
    advice = "correct the names, or add the files"
    return _Place(path, Wrong(f"no such file below {files.root}", advice), name)


def _mistake_in(row: Row, place: _Place) -> Mistake | None:
    """What is wrong with a row by itself, if anything."""
    if place.wrong:
        return Mistake(row.number, *place.wrong, place.name)
    if not row.caption:
        return Mistake(row.number, "the caption is empty", "write one, or delete it")
    if "\0" in row.caption:
        return Mistake(row.number, "the caption holds a null character", "remove it")
    if len(row.caption) > LONGEST_CAPTION:
        what = f"the caption has more than {LONGEST_CAPTION:,} characters"
        return Mistake(row.number, what, "shorten it")
    split = split_called(row.split)
    if split and split not in SPLITS:
        advice = f"use {', '.join(SPLITS)}"
        return Mistake(row.number, "not the name of a split", advice, row.split[:40])
    return None


def _spelled(path: str, files: VideoFiles) -> str:
    """The path as the folder spells it, if one looks the same; else empty.

    macOS writes accents in the names of files apart from their letters, and a
    spreadsheet does not; file systems of other machines tell the two apart.
    """
    if path.isascii():
        return ""
    meant = unicodedata.normalize("NFC", path)
    for other in itertools.islice(files.named([PurePosixPath(meant).stem]), _NEAR):
        if unicodedata.normalize("NFC", other) == meant:
            return other
    return ""


def _meant(video: str, files: VideoFiles) -> str:
    """The path of a video that a wrong name may stand for; empty if none is near."""
    name = PurePosixPath(PureWindowsPath(video).name if "\\" in video else video).name
    near = files.named([name, PurePosixPath(name).stem])
    for path in itertools.islice(near, _NEAR):
        # The folder holds other files, and links to files that are gone.
        if Path(path).suffix.lower() in SUFFIXES and files.at(path) is not None:
            return path
    return ""


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
    captions: dict[str, dict[str, None]] = {}
    numbers: dict[str, list[int]] = {}
    repeated = []
    for row in rows:
        said = captions.setdefault(row.video, {})
        numbers.setdefault(row.video, []).append(row.number)
        # A dictionary as a set that keeps the order: a video may have many captions.
        if row.caption in said:
            repeated.append(row.number)
        said[row.caption] = None
    if repeated:
        inform(
            f"{path}, {rows_of(repeated)}: the same video and caption as further up; "
            "used once"
        )
    said_of = {video: list(said) for video, said in captions.items()}
    return Pairs(said_of, numbers, split_of)


def _one_form(path: str) -> str:
    """A path in one spelling of its accents."""
    return unicodedata.normalize("NFC", str(PurePosixPath(path)))


def tell_unused(pairs: Pairs, files: VideoFiles) -> None:
    """Tells which videos of the folder have no row; not of what can be no video."""
    unused = [
        path
        for path in files.paths()
        if path not in pairs.captions
        and _one_form(path) not in pairs.named
        and Path(path).suffix.lower() in SUFFIXES
        # Neither a link to nowhere nor an empty file.
        and (file := files.at(path)) is not None
        and files.about(file)[0]
    ]
    if unused:
        inform(
            f"{counted(len(unused), 'video')} of {files.root} without a caption, not "
            f"used: {some([x if x.isprintable() else shown(x, repr) for x in unused])}"
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
