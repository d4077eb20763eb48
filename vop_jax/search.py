"""Finds videos in a folder by what a text says of them.

    python -m vop_jax.search index --videos=DIR --checkpoint=PATH --output=INDEX
        [--rebuild] [--retry] [--report=FILE.json]
    python -m vop_jax.search query --index=INDEX "a red circle moves" [--top=10]
        [--html=FILE] [--json]
    python -m vop_jax.search serve --index=INDEX [--host=127.0.0.1] [--port=8000]

`index` reads what is new or changed and goes on where it was broken off.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.arguments import Parser
from data_pipelines.errors import UserError, command
from data_pipelines.terminal import say, table
from vop_jax.run_folder import write_atomically
from vop_jax.startup import start_up

if TYPE_CHECKING:
    from vop_jax.model import Model
    from vop_jax.video_index import Found, Summary, VideoIndex

# Unreadable files that are printed; the report has all.
_PRINTED = 20


def load_model(checkpoint: str | Path, num_frames: int | None = None) -> "Model":
    """Loads what embeds videos and texts."""
    from vop_jax.model import load

    return load(checkpoint, num_frames=num_frames)


def model_of(index: "VideoIndex", checkpoint: str | None = None) -> "Model":
    """Loads the model that an index was made with.

    Args:
        index: names the model's place.
        checkpoint: its place if that is another by now.

    Raises:
        UserError: it is not there, or it is another model.
    """
    try:
        model = load_model(
            checkpoint or index.meta["checkpoint"], int(index.meta["num_frames"])
        )
    except UserError as error:
        if checkpoint:
            raise
        raise UserError(
            f"{error} (the model of {index.path}; if it is elsewhere, give "
            "--checkpoint)"
        ) from None
    index.check_model(model)
    return model


def _write(path: Path, content: str) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None


def _index(flags: argparse.Namespace) -> int:
    from vop_jax.video_folder import existing_folder
    from vop_jax.video_index import VideoIndex

    folder = existing_folder(flags.videos)
    # A name that is no path is one of a model on a hub.
    place = Path(flags.checkpoint).expanduser()
    checkpoint = str(place.absolute()) if place.exists() else flags.checkpoint
    with VideoIndex.create(flags.output) as index:
        model = load_model(checkpoint)
        summary = index.update(
            model, folder, checkpoint, rebuild=flags.rebuild, retry=flags.retry
        )
    _print_summary(summary, flags.report)
    if flags.report:
        report = dataclasses.asdict(summary)
        report["unreadable"] = [file._asdict() for file in summary.unreadable]
        _write(flags.report, json.dumps(report, indent=1) + "\n")
    return 0


def _print_summary(summary: "Summary", report: Path | None) -> None:
    from vop_jax.search_page import shown

    rows = [
        ("indexed", f"{summary.indexed:,}"),
        ("unchanged", f"{summary.unchanged:,}"),
        ("removed", f"{summary.removed:,}"),
        ("unreadable", f"{len(summary.unreadable):,}"),
        ("skipped (not_video)", f"{len(summary.not_video):,}"),
    ]
    table(f"done in {summary.seconds:,.1f} s", ("files", "count"), rows)
    printed = summary.unreadable[:_PRINTED]
    if printed:
        rows = [(shown(file.path), file.status) for file in printed]
        table("unreadable", ("file", "status"), rows)
    left = len(summary.unreadable) - len(printed)
    if left:
        where = report or "--report=FILE.json"
        say(f"and {left:,} more; {where} has all")


def _query(flags: argparse.Namespace) -> int:
    from vop_jax.video_index import VideoIndex

    with VideoIndex.open(flags.index) as index:
        model = model_of(index, flags.checkpoint)
        found = index.search(model, flags.queries, flags.top)
        if flags.html:
            from vop_jax.search_page import search_page

            page = search_page(index, model, flags.queries, found)
            _write(flags.html, page)
        if flags.json:
            say(_as_json(index, flags.queries, found))
        else:
            _print_hits(flags.queries, found)
            if flags.html:
                say(f"page: {flags.html}")
    return 0


def _as_json(index: "VideoIndex", queries: Sequence[str], found: "Found") -> str:
    answers = [
        {
            "query": query,
            "hits": [
                {**hit._asdict(), "file": str(index.videos / hit.path)} for hit in hits
            ],
        }
        for query, hits in zip(queries, found.hits, strict=True)
    ]
    return json.dumps({"seconds": found.seconds, "answers": answers}, indent=1)


def _print_hits(queries: Sequence[str], found: "Found") -> None:
    from vop_jax.search_page import shown

    for query, hits in zip(queries, found.hits, strict=True):
        say(shown(query))
        # Not a `table`, which would set the paths to the right.
        say("rank  similarity  video")
        for hit in hits:
            say(f"{hit.rank:>4}  {hit.similarity:>10.3f}  {shown(hit.path)}")
        say("")
    read, embed, search = (1000 * found.seconds[x] for x in ("read", "embed", "search"))
    say(
        f"index read in {read:.1f} ms, embedded in {embed:.1f} ms with compiling, "
        f"searched {found.videos:,} videos in {search:.1f} ms"
    )


def _serve(flags: argparse.Namespace) -> int:
    from vop_jax.search_page import SearchServer
    from vop_jax.video_index import VideoIndex

    with VideoIndex.open(flags.index) as index:
        model = model_of(index, flags.checkpoint)
        # What can be said only after a search is said now; and the first one is slow.
        index.search(model, ["a video"], flags.top)
        with SearchServer((flags.host, flags.port), index, model, flags.top) as server:
            try:
                say(f"searching {index.path} at {server.url} until Ctrl-C")
                server.serve_forever()
            except KeyboardInterrupt:
                return 0
    return 0


def _text(argument: str) -> str:
    """A text that any tokenizer takes, whatever bytes the terminal gave."""
    return argument.encode(errors="replace").decode()


def _parse() -> argparse.Namespace:
    parser = Parser("vop_jax.search", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser("index", help="reads a folder of videos")
    index.set_defaults(run=_index)
    index.add_argument("--videos", required=True, help="folder, read with all below")
    index.add_argument("--checkpoint", required=True, help="a run's or a CLIP's folder")
    index.add_argument("--output", required=True, help="the index, one file")
    index.add_argument(
        "--rebuild", action="store_true", help="embed all anew, with any model"
    )
    index.add_argument(
        "--retry", action="store_true", help="read unreadable files again"
    )
    index.add_argument("--report", type=Path, help="JSON file for all that is unread")
    query = commands.add_parser("query", help="prints the most similar videos")
    query.set_defaults(run=_query)
    query.add_argument(
        "queries", nargs="+", metavar="QUERY", type=_text, help="what to look for"
    )
    query.add_argument("--html", type=Path, help="write a page of filmstrips")
    query.add_argument("--json", action="store_true", help="print JSON")
    serve = commands.add_parser("serve", help="shows a page with a search field")
    serve.set_defaults(run=_serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at")
    serve.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    for searching in (query, serve):
        searching.add_argument("--index", required=True, help="the index")
        searching.add_argument("--top", type=int, default=10, help="videos of a query")
        searching.add_argument(
            "--checkpoint", help="where the model is, if not where the index says"
        )
    return parser.parse_args()


@command
def main() -> int:
    """Parses the flags and runs the command."""
    flags = _parse()
    start_up()
    try:
        return flags.run(flags)
    except KeyboardInterrupt:
        kept = "; what is done is kept" if flags.run is _index else ""
        print(f"interrupted{kept}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    main()
