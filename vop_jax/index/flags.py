"""The flags of indexing and searching, and what their values must be."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from data_pipelines.console.arguments import local_path, place, store_path
from data_pipelines.console.errors import UserError
from data_pipelines.console.names import shortened
from data_pipelines.console.ranges import Range, number
from data_pipelines.decoding.cuts import CUTS
from vop_jax.index.days import earliest, latest
from vop_jax.index.endings import check_ending
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


def _host(argument: str) -> str:
    """An address without the port, which has a flag of its own."""
    found = re.fullmatch(r"(?:https?://)?(\[.*\]|[^:/]*)(?::([0-9]*))?/?", argument)
    if not found or found[0] == found[1]:
        return argument
    port = f" --port={found[2]}" if found[2] else ""
    raise argparse.ArgumentTypeError(
        f"{shortened(argument)} is not an address alone; pass "
        f"--host={shortened(found[1].strip('[]'))[1:-1]}{port}"
    )


def _vectors(argument: str) -> Path:
    """A local file whose ending `export` can write."""
    path = local_path(argument)
    try:
        check_ending(path)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


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
        help="the part of the videos that this process reads, NUMBER/COUNT such as "
        "3/16; auto takes it from SLURM's or Kubernetes' variables (default: all)",
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


def add_serve_flags(serve: argparse.ArgumentParser) -> None:
    """Adds the flags of `search serve` that `search query` has not."""
    serve.add_argument(
        "--host", type=_host, default="127.0.0.1", help="address to listen at"
    )
    serve.add_argument(
        "--port",
        type=number(int, Range(0, 65535)),
        default=8000,
        help="0 takes a free one",
    )
    serve.add_argument(
        "--no_token",
        action="store_true",
        help="let other machines ask without the token of the printed address",
    )


def add_export_flags(export: argparse.ArgumentParser) -> None:
    """Adds the flags of `search export`."""
    export.add_argument(
        "--output",
        type=_vectors,
        required=True,
        help="FILE.parquet, or FILE.npy with FILE.jsonl of what each row is",
    )
