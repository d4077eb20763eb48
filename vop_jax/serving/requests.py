"""What a request asks: parameters of the addresses, checked, and addresses made."""

import collections
import inspect
import os
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Request
from fastapi import Query as Parameter
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException

from data_pipelines.console.errors import UserError
from data_pipelines.console.ranges import read_number
from vop_jax.index.answers import Filters, Query
from vop_jax.index.days import earliest, latest
from vop_jax.index.moment_names import moment_of
from vop_jax.serving.previews import LONGEST as LONGEST_CLIP

# Longest query, characters, and most queries and hits of a request.
LONGEST, MOST_QUERIES, MOST_HITS = 1000, 16, 100
# Longest path, as the system has it.
LONGEST_PATH = 4096


def _spelled(value: Any) -> Any:
    """Numbers are written as everywhere else; Pydantic takes `1_0` for 10."""
    if isinstance(value, str) and value:
        try:
            read_number(value, float)
        except ValueError:
            raise PydanticCustomError("number", "it is not a number") from None
    return value


_SPELLED = BeforeValidator(_spelled)
# A form sends its empty fields as well.
_IF_GIVEN = BeforeValidator(lambda value: _spelled(value) or None)
_Seconds = Annotated[
    Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None, _IF_GIVEN
]
_Top = Annotated[Annotated[int, Field(ge=1, le=MOST_HITS)] | None, _IF_GIVEN]
_Time = Annotated[
    str,
    Parameter(
        max_length=100, description="a date as 2026-01-31, or with a time T12:00"
    ),
]


class Asked(NamedTuple):
    """A search as it was asked for.

    Attributes:
        queries: what to look for; empty for the bare page.
        filters: where.
        top: most hits of a query; None for the server's default.
        per_video: most hits of a query in one video.
        fields: the values of the form's fields.
    """

    queries: list[Query]
    filters: Filters
    top: int | None
    per_video: int
    fields: dict[str, str]


def asked(
    request: Request,
    q: Annotated[
        list[Annotated[str, Parameter(max_length=LONGEST)]],
        Parameter(max_length=MOST_QUERIES, description="what happens in the video"),
    ] = [],  # noqa: B006
    like: Annotated[
        str,
        Parameter(
            max_length=LONGEST_PATH,
            description="VIDEO@SECONDS: a moment to find more of its kind",
        ),
    ] = "",
    folder: Annotated[
        str,
        Parameter(max_length=LONGEST_PATH, description="only videos below this folder"),
    ] = "",
    min_seconds: Annotated[
        _Seconds, Parameter(description="shortest duration of the video")
    ] = None,
    max_seconds: Annotated[
        _Seconds, Parameter(description="longest duration of the video")
    ] = None,
    since: _Time = "",
    until: _Time = "",
    top: Annotated[_Top, Parameter(description="most hits of a query")] = None,
    per_video: Annotated[
        _Top, Parameter(description="most hits of a query in one video (default: 1)")
    ] = None,
) -> Asked:
    """Reads a search from a request; used by FastAPI.

    Raises:
        HTTPException: `like` is not a moment, a time is none, or a parameter that has
            one value is given twice.
    """
    _check_once(request, [name for name in _ASKED if name != "q"])
    queries = [Query(text=text) for text in q if text.strip()]
    if like:
        like = in_bytes(request, "like")
        try:
            queries.append(Query(like=moment_of(like)))
        except ValueError as error:
            raise HTTPException(422, f"like: {error}") from None
    given = dict(request.query_params)
    folder = in_bytes(request, "folder")
    fields = {"q": q[0] if q else "", "like": like, "folder": folder}
    names = ("min_seconds", "max_seconds", "since", "until", "per_video")
    fields |= {name: given.get(name, "") for name in names}
    filters = Filters(
        folder=folder.rstrip("/"),
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        since=_moment_of("since", since, earliest),
        until=_moment_of("until", until, latest),
    )
    try:
        filters.check()
    except UserError as error:
        raise HTTPException(422, str(error)) from None
    return Asked(queries, filters, top, per_video or 1, fields)


_ASKED = [*inspect.signature(asked).parameters][1:]


def nothing_else(*known: str) -> Callable[[Request], None]:
    """What refuses parameters that an address does not know; used by FastAPI.

    A misspelt filter would otherwise be no filter. The page ignores what it does not
    know, since addresses that are passed on carry parameters of others.

    Args:
        known: the parameters; by default those of `asked`, which looks itself whether
            one is given twice.
    """

    def check(request: Request) -> None:
        """Refuses them.

        Raises:
            HTTPException: there is one.
        """
        names = known or _ASKED
        for name in request.query_params:
            if name not in names:
                text = f"{name[:100]}: there is no such parameter; there are "
                raise HTTPException(422, text + ", ".join(names))
        _check_once(request, known)

    return check


def _check_once(request: Request, names: Iterable[str]) -> None:
    """Refuses parameters that are given twice: which one is meant, nobody can tell.

    Raises:
        HTTPException: there is one.
    """
    counts = collections.Counter(name for name, _ in request.query_params.multi_items())
    for name in names:
        if counts[name] > 1:
            raise HTTPException(422, f"{name}: it is given {counts[name]} times")


def _moment_of(name: str, text: str, of: Callable[[str], float]) -> float | None:
    try:
        # A form sends its empty fields as well.
        return of(text) if text else None
    except ValueError as error:
        raise HTTPException(422, f"{name}: {error}") from None


class Stretch(NamedTuple):
    """A stretch of a video.

    Attributes:
        video: its path relative to the folder.
        start: seconds.
        end: seconds.
        best: the time in it that answers best; None if that is not known.
    """

    video: str
    start: float
    end: float
    best: float | None = None

    def around_best(self) -> "Stretch":
        """The part of it that a preview shows: all, or as much around the best time."""
        start = self.start
        if self.best is not None:
            start = min(self.best - LONGEST_CLIP / 2, self.end - LONGEST_CLIP)
        start = max(start, self.start)
        return Stretch(self.video, start, min(self.end, start + LONGEST_CLIP))


def video_path(
    request: Request,
    video: Annotated[
        str, Parameter(max_length=LONGEST_PATH, description="path as in the answers")
    ],
) -> str:
    """Reads the path of a video from a request; used by FastAPI."""
    return in_bytes(request, "video")


def stretch(
    video: Annotated[str, Depends(video_path)],
    start: Annotated[
        float,
        _SPELLED,
        Parameter(ge=0, le=1e7, allow_inf_nan=False, description="seconds"),
    ] = 0.0,
    end: Annotated[
        Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)] | None,
        _IF_GIVEN,
        Parameter(description="seconds; by default 30 after the start"),
    ] = None,
    best: Annotated[
        Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)] | None,
        _IF_GIVEN,
        Parameter(
            description="seconds; of a longer stretch, the time to show 30 seconds "
            "around (default: its start)"
        ),
    ] = None,
) -> Stretch:
    """Reads a stretch from a request; used by FastAPI.

    Raises:
        HTTPException: the times are not in order.
    """
    if end is None:
        end = start + LONGEST_CLIP
    elif end < start:
        raise HTTPException(422, f"end: {end:.12g} is before the start, {start:.12g}")
    if best is not None and not start <= best <= end:
        raise HTTPException(
            422, f"best: {best:.12g} is not between {start:.12g} and {end:.12g}"
        )
    # A stretch of no length would have no frame.
    return Stretch(video, start, max(end, start + 0.5), best)


def in_bytes(request: Request, name: str) -> str:
    """A parameter that is a path, which may hold bytes that are not UTF-8."""
    query = request.scope["query_string"].decode("latin-1")
    given = urllib.parse.parse_qs(query, errors="surrogateescape")
    return given.get(name, [""])[-1]


def address(path: str, **parameters: Any) -> str:
    """An address of this server, with parameters that may hold any bytes."""
    given = {
        name: os.fsencode(value) if isinstance(value, str) else f"{value:.10g}"
        for name, value in parameters.items()
        if value not in ("", None)
    }
    return path + ("?" + urllib.parse.urlencode(given) if given else "")
