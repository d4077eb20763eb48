"""What a search of moments is asked, and what it answers."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from data_pipelines.console.errors import UserError


class BeyondTheEndError(UserError):
    """A query is like a moment that is behind the end of its video."""


class NotInTheIndexError(UserError):
    """A query is like a moment of a video that the index has not."""


@dataclasses.dataclass(frozen=True)
class Query:
    """One query: exactly one of a text, a picture, or a moment of the index.

    Attributes:
        text: a description.
        image: a picture, which counts as a video of one frame.
        like: a video's path relative to the folder, and a time in it, seconds.
    """

    text: str = ""
    image: UInt8[np.ndarray, "H W 3"] | None = None
    like: tuple[str, float] | None = None


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which videos a search considers; by default all.

    Attributes:
        folder: only videos below this folder, relative to the folder of the index.
        min_seconds: shortest duration of the video, seconds.
        max_seconds: longest duration.
        since: earliest time of modification, POSIX seconds.
        until: latest time of modification.
    """

    folder: str = ""
    min_seconds: float | None = None
    max_seconds: float | None = None
    since: float | None = None
    until: float | None = None

    def check(self) -> None:
        """Checks that a video can pass.

        Raises:
            UserError: a least value is more than the largest.
        """
        for least, most in (("min_seconds", "max_seconds"), ("since", "until")):
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                raise UserError(f"{least} is more than {most}, so no video passes")


class Hit(NamedTuple):
    """A stretch of a video: one moment, or neighbours that answer alike.

    Attributes:
        rank: from 1.
        video: path relative to the folder of the index.
        start: seconds.
        end: seconds.
        similarity: of its best moment.
        stands_out: how far the similarity lies above the best answers to unrelated
            sentences, in their standard deviations; None for pictures and moments.
        weak: whether unrelated sentences are answered as well as this.
        exists: whether the file is there now.
        duration: of the video, seconds.
        copies: other videos of the same content.
        moment: id of its best moment, for `thumbnail`.
        best: the middle of its best moment, seconds, to play from and for more of its
            kind.
    """

    rank: int
    video: str
    start: float
    end: float
    similarity: float
    stands_out: float | None
    weak: bool
    exists: bool
    duration: float
    copies: tuple[str, ...]
    moment: str
    best: float


class Answer(NamedTuple):
    """The hits of one query, best first."""

    query: str
    hits: list[Hit]


class Found(NamedTuple):
    """The results of a search.

    Attributes:
        answers: one a query.
        videos: number of videos searched, those that pass the filters.
        moments: number of moments of them.
        refused: rows that are damaged and were left out, each with its reason.
        seconds: duration of `read` (of the index), `embed` and `search`.
        remarks: what is to be said of the queries' words and of the folder, a sentence
            each; see `remarks`.
    """

    answers: list[Answer]
    videos: int
    moments: int
    refused: list[str]
    seconds: dict[str, float]
    remarks: tuple[str, ...] = ()


class Counts(NamedTuple):
    """What an index holds.

    Attributes:
        videos: number of videos that can be found.
        moments: number of their moments.
        unreadable: number of files without a moment.
    """

    videos: int
    moments: int
    unreadable: int
