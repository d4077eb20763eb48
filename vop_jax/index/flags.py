"""The flags of indexing and searching, and what their values must be."""

import argparse
from collections.abc import Callable

from data_pipelines.console.arguments import local_path, place, store_path
from data_pipelines.console.ranges import Range, number
from data_pipelines.decoding.cuts import CUTS
from vop_jax.index.days import earliest, latest
from vop_jax.index.moment_names import moment_of

# The most that a list is read for; also a bound on the memory of one query.
HITS = Range(1, 1_000_000)
_SECONDS = Range(0, 1e9)


def _text(argument: str) -> str:
    """A text that every tokenizer accepts, whatever bytes the terminal passed."""
    return argument.encode(errors="replace").decode()


def index_place(argument: str) -> str:
    """A local path, or the URI of an object store; the text is kept."""
    store_path(argument)
    return argument


def _moment(argument: str) -> tuple[str, float]:
    """`VIDEO@SECONDS`."""
    try:
        return moment_of(argument)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _time(of: Callable[[str], float]) -> Callable[[str], float]:
    """An argparse `type` of a parser of `days`."""

    def read(argument: str) -> float:
        try:
            return of(argument)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def add_index_flags(index: argparse.ArgumentParser) -> None:
    """Adds the flags of `search index`."""
    index.add_argument(
        "--videos", type=place, required=True, help="folder, subfolders included"
    )
    index.add_argument(
        "--checkpoint", type=place, required=True, help="folder of a run or of a CLIP"
    )
    index.add_argument(
        "--output",
        type=index_place,
        required=True,
        help="the index: a folder, or a place such as gs://bucket/videos.index",
    )
    index.add_argument(
        "--moment_seconds",
        type=number(float, Range(0, 1e9, above=True)),
        help="length of a moment (default: as before, or 8)",
    )
    index.add_argument(
        "--cut",
        choices=list(CUTS),
        help="where moments begin: windows of equal length, or shots, which needs "
        "scenedetect-headless (default: as before, or windows)",
    )
    index.add_argument(
        "--shard",
        help="the part of the videos that this process reads, NUMBER/COUNT from 1/16 "
        "to 16/16; auto takes it from SLURM's or Kubernetes' variables (default: all)",
    )
    index.add_argument(
        "--rebuild", action="store_true", help="embed all videos again, with any model"
    )
    index.add_argument(
        "--retry", action="store_true", help="read unreadable files again"
    )
    index.add_argument(
        "--report",
        type=store_path,
        help="JSON file that lists all unreadable files (default: not written)",
    )


def add_query_flags(query: argparse.ArgumentParser) -> None:
    """Adds the flags of `search query` that `search serve` has not."""
    query.add_argument(
        "queries",
        nargs="*",
        metavar="QUERY",
        type=_text,
        help="description of a moment",
    )
    query.add_argument(
        "--image",
        action="append",
        default=[],
        type=local_path,
        help="a picture as a query; may be repeated (default: none)",
    )
    query.add_argument(
        "--like",
        action="append",
        default=[],
        type=_moment,
        metavar="VIDEO@SECONDS",
        help="more of the kind of a moment; may be repeated (default: none)",
    )
    query.add_argument(
        "--per_video",
        type=number(int, HITS),
        default=1,
        help="the most hits in one video",
    )
    query.add_argument(
        "--folder", type=place, help="only videos below this folder (default: all)"
    )
    query.add_argument(
        "--min_seconds",
        type=number(float, _SECONDS),
        help="shortest duration (default: any)",
    )
    query.add_argument(
        "--max_seconds",
        type=number(float, _SECONDS),
        help="longest duration (default: any)",
    )
    query.add_argument(
        "--since", type=_time(earliest), help="earliest time of change (default: any)"
    )
    query.add_argument(
        "--until",
        type=_time(latest),
        help="latest time of change; of a date, all of that day (default: any)",
    )
    query.add_argument(
        "--html", type=store_path, help="page of the hits (default: not written)"
    )
    query.add_argument("--json", action="store_true", help="print JSON")
