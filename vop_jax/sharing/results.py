"""Reads the metrics that a model card shows."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

from annotated_types import Ge, MaxLen, MinLen
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import Matches, described, read_json
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.surface.inputs import path_of

# A name that goes into the card's Markdown and YAML as it is.
_Word = Annotated[str, Matches(r"^[A-Za-z0-9_./-]{1,100}$")]
_Count = Annotated[int, Ge(0)]
_Ends = Annotated[list[float], MinLen(2), MaxLen(2)]


class _Results(TypedDict):
    """What is read of `results.json`, or of a file that `evaluate --json` wrote."""

    dataset: _Word
    split: _Word
    queries: _Count
    videos: _Count
    t2v: dict[str, float]
    v2t: dict[str, float]
    method: NotRequired[_Word]
    ties: NotRequired[_Word]
    left_out: NotRequired[_Count | None]
    intervals: NotRequired[dict[str, Any]]


class _Intervals(TypedDict):
    level: int
    resamples: _Count
    t2v: dict[str, _Ends]
    v2t: dict[str, _Ends]


class Scored(NamedTuple):
    """The metrics of a model on one split.

    Attributes:
        dataset: its name here.
        split: its name.
        queries: number of captions.
        videos: number of videos.
        metrics: by direction, `t2v` and `v2t`, and name.
        intervals: as `metrics`, the two ends; empty if there are none.
        level: of the intervals, in percent.
        resamples: of the bootstrap that the intervals come from.
        ties: how equal similarities counted.
        left_out: videos of the split without decodable frames, absent from the metrics.
    """

    dataset: str
    split: str
    queries: int
    videos: int
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, list[float]]]
    level: int
    resamples: int
    ties: str
    left_out: int


def read_results(given: Any, run: str) -> list[Scored]:
    """Reads files of metrics.

    Args:
        given: a path, several of them, or None for those of the run.
        run: folder of the run; empty if there is none.

    Raises:
        UserError: a file cannot be read, or does not hold the metrics of a data set.
    """
    if given is None:
        own = RunFolder(run).results if run else None
        return [_read(Path(own))] if own is not None and own.is_file() else []
    if isinstance(given, str | os.PathLike):
        given = [given]
    if not isinstance(given, Sequence):
        raise UserError("results are a path or a list of paths")
    return [_read(Path(path_of(x, "results"))) for x in given]


def _read(path: Path) -> Scored:
    found = described(read_json(path, finite=False), _Results, str(path))
    drawn = found.get("intervals")
    where = f"{path}: intervals"
    intervals = None if drawn is None else described(drawn, _Intervals, where)
    ways = {"t2v": found["t2v"], "v2t": found["v2t"]}
    return Scored(
        *(found["dataset"], found["split"], found["queries"], found["videos"]),
        metrics=ways,
        intervals={way: intervals[way] for way in ways} if intervals else {},
        level=intervals["level"] if intervals else 0,
        resamples=intervals["resamples"] if intervals else 0,
        ties=found.get("ties", ""),
        left_out=found.get("left_out") or 0,
    )
