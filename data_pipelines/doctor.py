"""Checks a data set before hours are spent on its preparation.

    python -m data_pipelines.doctor --dataset=msrvtt_9k --videos=VIDEOS
        --annotations=FILES [--decode] [--json]

Every file is opened and its metadata is read; with --decode its frames are decoded as
well, as `data_pipelines.prepare` does. Nothing is written. The exit status is 0 even if
files are missing: the command reports and you decide.
"""

from collections.abc import Sequence
from typing import Any

from data_pipelines.catalog.table import DATASETS
from data_pipelines.console.arguments import Parser, local_path
from data_pipelines.console.errors import command
from data_pipelines.console.ranges import Range, number
from data_pipelines.console.terminal import quiet_libraries, say, say_json, table
from data_pipelines.preparing.limits import FRAMES, add_limits

# How many ids of each kind and split are printed.
_SHOWN = 5


def show(findings: dict[str, Any]) -> None:
    """Prints the findings as a table."""
    splits = findings["splits"]
    columns = ["", "videos", "published", "captions", "published"]
    columns += ["missing", "unreadable", "short", "duplicate", "too long"]
    rows = [
        [
            name,
            *(f"{split['videos']:,}", _number(split["published_videos"])),
            *(f"{split['captions']:,}", _number(split["published_captions"])),
            *(f"{len(split[key]):,}" for key in ("missing", "unreadable", "short")),
            *(_number(split[x]) for x in ("duplicate_captions", "captions_too_long")),
        ]
        for name, split in splits.items()
    ]
    table(findings["dataset"], columns, rows)
    for name, split in splits.items():
        for key, ids in split.items():
            if isinstance(ids, list) and ids:
                more = f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else ""
                some = ", ".join(_with_status(split, key, x) for x in ids[:_SHOWN])
                say(f"{name} {key.replace('_', ' ')}: {some}{more}")
        if split["empty_captions"]:
            say(f"{name} empty captions: {split['empty_captions']:,}, left out")
        for other, ids in split["also_in"].items():
            say(f"{name} has {len(ids):,} videos that are in {other} as well: {ids[0]}")


def _with_status(split: dict[str, Any], key: str, video_id: str) -> str:
    if key != "unreadable":
        return video_id
    return f"{video_id} ({split['unreadable_status'][video_id]})"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the flags, checks the data set and prints the findings."""
    parser = Parser("data_pipelines.doctor", __doc__)
    add = parser.add_argument
    own = [name for name, row in DATASETS.items() if not row.rendered]
    add("--dataset", required=True, help=f"one of {', '.join(own)}")
    add("--videos", type=local_path, required=True, help="folder of the videos")
    add(
        "--annotations",
        type=local_path,
        required=True,
        help="folder of the annotation files, or the file",
    )
    add(
        "--num_frames",
        type=number(int, FRAMES),
        help="videos with fewer frames are short (default: the data set's own)",
    )
    add(
        "--tokens",
        type=number(int, Range(1, 1_000_000)),
        default=77,
        help="most tokens of a caption",
    )
    add("--decode", action="store_true", help="decode the frames as well")
    add_limits(add)
    add(
        "--ignore_pixel_aspect",
        action="store_true",
        help="treat non-square pixels as square",
    )
    add("--json", action="store_true", help="print JSON instead of a table")
    flags = parser.parse_args(arguments)
    quiet_libraries()
    # Imported late, so that the help and a typing mistake are answered without a wait.
    from data_pipelines.decoding.workers import Workers
    from data_pipelines.preparing.diagnosis import diagnose

    findings = diagnose(
        flags.dataset,
        flags.videos,
        flags.annotations,
        num_frames=flags.num_frames,
        tokens=flags.tokens,
        decode=flags.decode,
        workers=Workers(flags.workers, flags.seconds),
        max_megabytes=flags.max_megabytes,
        ignore_pixel_aspect=flags.ignore_pixel_aspect,
    )
    if flags.json:
        say_json(findings)
    else:
        show(findings)


if __name__ == "__main__":
    main()
