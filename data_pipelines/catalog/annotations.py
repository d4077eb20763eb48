"""The content of annotation files, validated strictly."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import (
    shown,
)

# Longest id or path in bytes, and longest caption in characters.
_LONGEST_ID = 1_000
LONGEST_CAPTION = 100_000
# Control characters of Unicode, and the halves of pairs.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Video(NamedTuple):
    """One annotated video.

    Attributes:
        video_id: unique within the split.
        files: the stems (names without suffix) that its file may have, most likely
            first; with `Annotations.by_path`, its one path.
        captions: all its captions, none of them empty.
        extras: further JSON values to store with the video.
    """

    video_id: str
    files: tuple[str, ...]
    captions: tuple[str, ...]
    extras: Mapping[str, Any] = {}


@dataclasses.dataclass
class Annotations:
    """The annotations of a data set.

    Attributes:
        splits: the videos of each split, in the files' order.
        files: the annotation files that were read.
        by_path: whether videos are named by their path instead of their stem.
        without_captions: by split, ids without a caption, which are left out.
        unlisted: by split, ids that have captions but are not in the split's list.
        repeated: by split, ids that are listed more than once; each is used once.
        empty_captions: by split, the number of empty captions, which are left out.
    """

    splits: dict[str, list[Video]]
    files: list[Path]
    by_path: bool = False
    without_captions: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    unlisted: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    repeated: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    empty_captions: dict[str, int] = dataclasses.field(default_factory=dict)

    def add_split(
        self,
        name: str,
        ids: Sequence[str],
        captions: Mapping[str, Sequence[str]],
        *,
        files: Mapping[str, tuple[str, ...]] | None = None,
        own_captions: bool = False,
    ) -> None:
        """Adds a split: its ids that have captions, in order, each once.

        Args:
            name: of the split.
            ids: of its videos.
            captions: by video id; may hold videos of other splits.
            files: the stems that each id's file may have; by default the id itself.
            own_captions: whether `captions` belong to this split only.

        Raises:
            UserError: no video is left, or a name or a caption is out of bounds.
        """
        times = collections.Counter(ids)
        self.repeated[name] = [video for video, count in times.items() if count > 1]
        self.unlisted[name] = [x for x in captions if own_captions and x not in times]
        self.empty_captions[name], self.without_captions[name] = 0, []
        videos = self.splits.setdefault(name, [])
        for video_id in times:
            check_id(video_id, f"the {name} split")
            given = captions.get(video_id, ())
            said = tuple(x.strip() for x in given if x.strip())
            self.empty_captions[name] += len(given) - len(said)
            if max(map(len, said), default=0) > LONGEST_CAPTION:
                raise UserError(
                    f"the {name} split: {shown(video_id, repr)} has a caption of more "
                    f"than {LONGEST_CAPTION:,} characters; is it one?"
                )
            if said:
                named = files[video_id] if files else (video_id,)
                videos.append(Video(video_id, named, said))
            else:
                self.without_captions[name].append(video_id)
        if not videos:
            raise UserError(
                f"the {name} split has no video with a caption (read: "
                f"{', '.join(str(file) for file in self.files)})"
            )

    def read(self, path: Path) -> Path:
        """Records that a file is read; returns its path."""
        self.files.append(path)
        return path


class Wrong(NamedTuple):
    """What is wrong with a name, without the name, and what to do."""

    what: str
    advice: str


def wrong_id(video_id: str) -> Wrong | None:
    """Why an id cannot be printed, stored or used as a file name; None if it can."""
    # A JSON file may hold halves of surrogate pairs.
    size = len(video_id.encode(errors="surrogatepass"))
    if not 1 <= size <= _LONGEST_ID:
        length = "too long" if size else "empty"
        advice = f"a name has 1 to {_LONGEST_ID} bytes"
        return Wrong(f"the name of a video is {length}", advice)
    if _CONTROL.search(video_id):
        return Wrong(
            "the name of a video holds control characters",
            "use one without line ends and the like",
        )
    return None


def check_id(video_id: str, where: str) -> None:
    """Checks that an id can be printed, stored and used as a file name.

    Raises:
        UserError: it is empty, too long, or holds a control character.
    """
    if wrong := wrong_id(video_id):
        raise UserError(
            f"{where}: {wrong.what}: {shown(video_id, repr)}; {wrong.advice}"
        )
