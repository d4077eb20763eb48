"""Searches a folder of videos by text, by a picture, or by a moment of a video.

    python -m vop_jax.search index --videos=DIR --checkpoint=PATH --output=INDEX
        [--moment_seconds=8] [--cut=shots] [--shard=3/16] [--rebuild] [--retry]
        [--report=FILE.json]
    python -m vop_jax.search query --index=INDEX "a red circle moves" [--top=10]
        [--image=FILE] [--like=VIDEO@SECONDS] [--folder=DIR] [--html=FILE] [--json]
    python -m vop_jax.search serve --index=INDEX [--host=127.0.0.1] [--port=8000]
    python -m vop_jax.search export --index=INDEX --output=FILE.parquet

`index` reads new and changed files, and resumes if it was interrupted. INDEX is a
folder of its own, or a place in an object store such as s3://bucket/videos.index; any
number of processes may fill it at once.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.console.arguments import Parser, local_path, place
from data_pipelines.console.counted import counted
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.interrupts import ending_of
from data_pipelines.console.ranges import number
from data_pipelines.console.terminal import say, say_json, table, warn
from data_pipelines.files.outputs import check_outputs
from vop_jax.index.flags import (
    HITS,
    add_export_flags,
    add_index_flags,
    add_query_flags,
    add_serve_flags,
    index_place,
)
from vop_jax.runtime.files import write_output
from vop_jax.runtime.startup import start_up

if TYPE_CHECKING:
    from vop_jax.api import Model
    from vop_jax.index.answers import Found, Query
    from vop_jax.index.update import Summary
    from vop_jax.index.video_index import VideoIndex

# The most unreadable files to print; the report lists all.
_PRINTED = 20


def load_model(
    checkpoint: str | Path,
    num_frames: int | None = None,
    towers: Sequence[str] = ("vision", "text"),
    dtype: str = "auto",
) -> "Model":
    """Loads the model that embeds videos and texts."""
    from vop_jax.api import load

    return load(checkpoint, num_frames=num_frames, towers=towers, dtype=dtype)


def model_of(
    index: "VideoIndex", checkpoint: str | None = None, *, pictures: bool = False
) -> "Model":
    """Loads the model that an index was made with, as far as a search needs it.

    Args:
        index: the index, which records the model's path.
        checkpoint: the model's path if it has moved.
        pictures: whether queries are pictures as well as texts.

    Raises:
        UserError: there is no model, or it is another one.
    """
    try:
        model = load_model(
            checkpoint or index.meta.checkpoint,
            index.meta.num_frames,
            towers=["text", "vision"] if pictures else ["text"],
            dtype=index.dtype,
        )
    except UserError as error:
        if checkpoint:
            raise
        raise UserError(
            f"{error} (the model of {index.path}; if it has moved, pass --checkpoint)"
        ) from None
    index.check_model(model)
    return model


def _index(flags: argparse.Namespace) -> int:
    from vop_jax.index.listing import check_holds_videos, existing_folder
    from vop_jax.index.location import place_of
    from vop_jax.index.path_text import with_bytes
    from vop_jax.index.shards import Shard, parse_shard
    from vop_jax.index.video_index import VideoIndex

    shard = parse_shard(flags.shard, os.environ) if flags.shard else Shard()
    if flags.rebuild and shard.count > 1:
        raise UserError(
            "--rebuild drops what other processes store; index with --rebuild once, or "
            "delete the index, then use --shard"
        )
    check_outputs({"report": flags.report}, [("output", place_of(flags.output))])
    folder = existing_folder(flags.videos)
    # A name that is not a path is that of a model on the Hugging Face hub.
    place = Path(flags.checkpoint).expanduser()
    checkpoint = str(place.absolute()) if os.path.exists(place) else flags.checkpoint
    with VideoIndex.create(flags.output, cut=flags.cut) as index:
        # An update computes as the index began, also on another machine.
        began = not index.is_empty and not flags.rebuild
        # Mistakes are told before the model is loaded, which takes a while.
        if began:
            same = flags.moment_seconds, flags.cut
            index.meta.check_same(folder, *same, index.path)
        else:
            check_holds_videos(folder)
        model = load_model(checkpoint, dtype=index.dtype if began else "auto")
        summary = index.update(
            model,
            folder,
            checkpoint,
            moment_seconds=flags.moment_seconds,
            rebuild=flags.rebuild,
            retry=flags.retry,
            shard=shard,
        )
    _print_summary(summary, flags.report)
    if flags.report:
        report = dataclasses.asdict(summary)
        for name in ("partly", "unreadable"):
            report[name] = [with_bytes(x._asdict()) for x in getattr(summary, name)]
        report = with_bytes(report)
        write_output(flags.report, json.dumps(report, indent=1) + "\n")
    return 0


def _print_summary(summary: "Summary", report: Path | None) -> None:

    rows = [
        ("indexed", f"{summary.indexed:,}"),
        ("moments", f"{summary.moments:,}"),
        ("unchanged", f"{summary.unchanged:,}"),
        ("moved or copied", f"{summary.kept:,}"),
        ("removed", f"{summary.removed:,}"),
        ("partly readable", f"{len(summary.partly):,}"),
        ("unreadable", f"{len(summary.unreadable):,}"),
        ("skipped (not_video)", f"{len(summary.not_video):,}"),
    ]
    table(f"done in {summary.seconds:,.1f} s", ("files", "count"), rows)
    if summary.recall is not None:
        say(f"recall@10 of the approximate index: {summary.recall:.3f}")
    for name in ("partly", "unreadable"):
        listed = getattr(summary, name)
        printed = listed[:_PRINTED]
        if printed:
            rows = [(file.path, file.status) for file in printed]
            title = "partly readable" if name == "partly" else name
            table(title, ("file", "status"), rows)
        left = len(listed) - len(printed)
        if left:
            where = report or "--report=FILE.json"
            say(f"and {left:,} more; {where} has all")


def _query(flags: argparse.Namespace) -> int:
    from vop_jax.index.answers import Filters
    from vop_jax.index.remarks import remarked
    from vop_jax.index.searching import check_queries
    from vop_jax.index.video_index import VideoIndex

    queries = _queries(flags)
    filters = Filters(
        folder=flags.folder or "",
        min_seconds=flags.min_seconds,
        max_seconds=flags.max_seconds,
        since=flags.since,
        until=flags.until,
    )
    filters.check()
    check_queries(queries)
    with VideoIndex.open(flags.index, flags.videos) as index:
        check_outputs({"html": flags.html}, [("index", index.path)])
        model = model_of(index, flags.checkpoint, pictures=bool(flags.image))
        found = index.search(
            model, queries, top=flags.top, per_video=flags.per_video, filters=filters
        )
        found = remarked(
            index, _named(found, flags), queries, model.tokenizer, filters.folder
        )
        # As the page says it: such a query is answered, but not as it was meant.
        for remark in found.remarks:
            warn(remark)
        _remark_places(index, found)
        if flags.html:
            from vop_jax.index.page import search_page

            write_output(flags.html, search_page(index, found))
        if flags.json:
            say_json(as_json(index, found))
        else:
            _print_hits(found)
            if flags.html:
                say(f"page: {flags.html}")
    return 0


def _remark_places(index: "VideoIndex", found: "Found") -> None:
    """Says what the folder of the files cannot be."""
    hits = [hit for answer in found.answers for hit in answer.hits]
    if hits and not any(hit.exists for hit in hits):
        warn(f"none of these files is in {index.root}; is it another --videos?")


def _queries(flags: argparse.Namespace) -> "list[Query]":
    """The queries of the command line: texts, pictures, then moments."""
    from vop_jax.index.answers import Query

    found = [Query(text=text) for text in flags.queries]
    for name in flags.image:
        from vop_jax.index.pictures import read_picture

        found.append(Query(image=read_picture(Path(name))))
    found += [Query(like=like) for like in flags.like]
    return found


def _named(found: "Found", flags: argparse.Namespace) -> "Found":
    """The answers, with the file of a picture as the name of its query."""
    texts, pictures = len(flags.queries), len(flags.image)
    answers = list(found.answers)
    for i, name in enumerate(flags.image, texts):
        answers[i] = answers[i]._replace(query=str(name))
    assert len(answers) == texts + pictures + len(flags.like)
    return found._replace(answers=answers)


def as_json(index: "VideoIndex", found: "Found") -> dict[str, Any]:
    """The results as `query --json` prints them; see `path_text` for names of files."""
    from vop_jax.index.path_text import with_bytes

    answers = [
        {
            **with_bytes({"query": answer.query}),
            "hits": [
                with_bytes({**hit._asdict(), "file": str(index.root / hit.video)})
                for hit in answer.hits
            ],
        }
        for answer in found.answers
    ]
    return {
        "answers": answers,
        "videos": found.videos,
        "moments": found.moments,
        "refused": found.refused,
        "seconds": found.seconds,
        **({"remark": " ".join(found.remarks)} if found.remarks else {}),
    }


def _print_hits(found: "Found") -> None:
    for answer in found.answers:
        say(answer.query)
        if answer.hits and all(hit.weak for hit in answer.hits):
            say("nothing stands out: unrelated sentences are answered as well")
        if not answer.hits:
            say("no video matches" + ("" if found.moments else " these filters"))
            say("")
            continue
        # Not a `table`, which would align the paths to the right.
        say("rank  similarity        seconds  video")
        for hit in answer.hits:
            seconds = f"{hit.start:.1f}-{hit.end:.1f}"
            copies = counted(len(hit.copies), "copy", "copies")
            remarks = [
                *(["weak match"] if hit.weak else []),
                *([] if hit.exists else ["missing"]),
                *([f"and {copies}"] if hit.copies else []),
            ]
            remark = f"  ({', '.join(remarks)})" if remarks else ""
            say(
                f"{hit.rank:>4}  {hit.similarity:>10.3f}  {seconds:>13}  "
                f"{hit.video}{remark}"
            )
        say("")
    for line in found.refused:
        say(f"left out: {line}")
    read, embed, search = (1000 * found.seconds[x] for x in ("read", "embed", "search"))
    say(
        f"index read in {read:.1f} ms, embedded in {embed:.1f} ms, "
        f"searched {counted(found.moments, 'moment')} of "
        f"{counted(found.videos, 'video')} in {search:.1f} ms"
    )


def _export(flags: argparse.Namespace) -> int:
    from vop_jax.index.video_index import VideoIndex

    with VideoIndex.open(flags.index) as index:
        written = index.export(flags.output)
        several = written.moments > index.counts().moments
    what = counted(written.moments, "moment")
    what += ", once for each copy of a video" if several else ""
    say(f"{what}: {', '.join(map(str, written.files))}")
    return 0


def _serve(flags: argparse.Namespace) -> int:
    from vop_jax.index.video_index import VideoIndex
    from vop_jax.serving.server import SearchServer

    with VideoIndex.open(flags.index, flags.videos) as index:
        model = model_of(index, flags.checkpoint)
        # Report any error of a search now, and compile before the first request.
        index.search(model, ["a video"], top=flags.top)
        model.compile_texts()
        with SearchServer(
            (flags.host, flags.port),
            index,
            model,
            as_json,
            top=flags.top,
            need_token=False if flags.no_token else None,
        ) as server:
            if server.is_open and not server.token:
                warn("--no_token: all who reach this machine can search and watch")
            say(f"searching {index.path} at {server.url} until Ctrl-C")
            server.serve()
    return 0


def _parse() -> argparse.Namespace:
    parser = Parser("vop_jax.search", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser("index", help="reads a folder of videos")
    index.set_defaults(run=_index)
    add_index_flags(index)
    query = commands.add_parser("query", help="prints the most similar moments")
    query.set_defaults(run=_query)
    add_query_flags(query)
    serve = commands.add_parser("serve", help="serves a page with a search field")
    serve.set_defaults(run=_serve)
    add_serve_flags(serve)
    for searching in (query, serve):
        searching.add_argument(
            "--top", type=number(int, HITS), default=10, help="hits per query"
        )
        searching.add_argument(
            "--checkpoint",
            type=place,
            help="path of the model (default: the one that the index records)",
        )
        searching.add_argument(
            "--videos",
            type=local_path,
            help="the folder of videos if it has moved (default: where it was)",
        )
    export = commands.add_parser("export", help="writes all vectors to a file")
    export.set_defaults(run=_export)
    add_export_flags(export)
    for reading in (query, serve, export):
        reading.add_argument(
            "--index", type=index_place, required=True, help="the index"
        )
    flags = parser.parse_args()
    if flags.run is _query and not (flags.queries or flags.image or flags.like):
        query.error(
            "there is no query; pass a text, --image=FILE, or --like=VIDEO@SECONDS"
        )
    return flags


@command
def main() -> int:
    """Parses the flags and runs the command."""
    flags = _parse()
    start_up()
    try:
        return flags.run(flags)
    except KeyboardInterrupt as error:
        how = ending_of(error)
        kept = "; what is done is kept" if flags.run is _index else ""
        print(f"{how.word}{kept}", file=sys.stderr)
        return how.status


if __name__ == "__main__":
    main()
