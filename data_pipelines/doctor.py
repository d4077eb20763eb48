"""Looks over a data set before hours are spent on it.

    python -m data_pipelines.doctor --dataset=msrvtt_9k --videos=VIDEOS
        --annotations=FILES [--decode] [--json]

Every file is opened and its own statements are read; with --decode its frames are
decoded as well, as `data_pipelines.prepare` would. Nothing is written. The status is 0
also where something is missing: what to make of that is up to you.
"""

import collections
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.annotations import Annotations, Video
from data_pipelines.arguments import Parser, check_positive
from data_pipelines.captions import too_long
from data_pipelines.datasets import DATASETS, Dataset, find_dataset
from data_pipelines.errors import UserError, command
from data_pipelines.terminal import progress, quiet_libraries, say, table
from data_pipelines.video_files import VideoFiles, find_video
from data_pipelines.video_job import Job, Result
from data_pipelines.workers import Workers

# How many of a split's ids the table shows of each kind.
_SHOWN = 5


def diagnose(
    dataset: str,
    videos: Path,
    annotations: Path,
    *,
    num_frames: int | None = None,
    tokens: int = 77,
    decode: bool = False,
    workers: Workers | None = None,
    max_megabytes: int = 4096,
) -> dict[str, Any]:
    """What there is to say of a data set, as JSON values.

    Args:
        dataset: its name.
        videos: folder of the videos.
        annotations: folder of the annotation files, or the file.
        num_frames: F; the data set's own by default.
        tokens: the most of a caption, start and end included.
        decode: whether frames are decoded.
        workers: what looks at the files.
        max_megabytes: a larger file counts as unreadable.

    Returns:
        `{"dataset", "splits": {name: {...}}}`: of each split `videos` and `captions`
        that would be used, the published numbers beside them (None where there are
        none), and the ids of what is not in order.

    Raises:
        UserError: the annotations cannot be read, or there is no such folder.
    """
    row = find_dataset(dataset)
    if row.rendered:
        raise UserError(f"{dataset} renders its own videos; there is nothing to check")
    num_frames = num_frames or row.num_frames
    found = row.read(annotations)
    files = VideoFiles(videos)
    file_of = {
        video.files: find_video(files, video, found.by_path)
        for split in found.splits.values()
        for video in split
    }
    results = _look(
        [path for path in file_of.values() if path is not None],
        num_frames if decode else 0,
        workers or Workers(),
        max_megabytes << 20,
    )
    splits = {}
    for name in dict.fromkeys([*row.published, *found.splits]):
        listed = found.splits.get(name, [])
        of_video = {
            video.video_id: results[path] if (path := file_of[video.files]) else None
            for video in listed
        }
        splits[name] = _split(row, found, name, listed, of_video, num_frames, tokens)
    return {"dataset": dataset, "splits": splits}


def _look(
    paths: Iterable[Path], num_frames: int, workers: Workers, max_bytes: int
) -> dict[Path, Result]:
    jobs = [Job(str(path), "", num_frames, 0, max_bytes) for path in set(paths)]
    found = {}
    with progress("looking", total=len(jobs), unit="videos") as bar:
        for job, result in workers.run(jobs):
            found[Path(job.video)] = result
            bar.advance()
    return found


def _split(
    row: Dataset,
    found: Annotations,
    name: str,
    listed: list[Video],
    results: dict[str, Result | None],
    num_frames: int,
    tokens: int,
) -> dict[str, Any]:
    used = [
        video
        for video in listed
        if (result := results[video.video_id]) and not result.status
    ]
    unreadable = {
        video_id: result.status
        for video_id, result in results.items()
        if result and result.status
    }
    captions = [caption for video in used for caption in video.captions]
    whose = [video.video_id for video in used for _ in video.captions]
    long = too_long(captions, tokens)
    times = collections.Counter(captions)
    published_videos, published_captions = row.published.get(name, (None, None))
    return {
        "videos": len(used),
        "captions": len(captions),
        "published_videos": published_videos,
        "published_captions": published_captions,
        "missing": [x for x, result in results.items() if result is None],
        "unreadable": list(unreadable),
        "unreadable_status": unreadable,
        "short": [
            x
            for x, result in results.items()
            if result and 0 < result.total_frames < num_frames
        ],
        # How many more captions there are than different ones.
        "duplicate_captions": len(captions) - len(times),
        "captions_too_long": sum(long),
        "videos_with_captions_too_long": list(
            dict.fromkeys(x for x, cut in zip(whose, long, strict=True) if cut)
        ),
        "duplicate_ids": found.repeated.get(name, []),
        "without_captions": found.without_captions.get(name, []),
        "unlisted": found.unlisted.get(name, []),
        "empty_captions": found.empty_captions.get(name, 0),
        "also_in": _overlaps(found, name),
    }


def _overlaps(found: Annotations, name: str) -> dict[str, list[str]]:
    """The ids that another split has as well."""
    own = [video.video_id for video in found.splits.get(name, [])]
    shared = {}
    for other, videos in found.splits.items():
        theirs = {video.video_id for video in videos}
        both = [x for x in own if x in theirs]
        if other != name and both:
            shared[other] = both
    return shared


def show(findings: dict[str, Any]) -> None:
    """Prints the findings for people."""
    splits = findings["splits"]
    columns = ["", "videos", "published", "captions", "published"]
    columns += ["missing", "unreadable", "short", "duplicate", "too long"]
    rows = [
        [
            name,
            *(f"{split['videos']:,}", _number(split["published_videos"])),
            *(f"{split['captions']:,}", _number(split["published_captions"])),
            *(f"{len(split[key]):,}" for key in ("missing", "unreadable", "short")),
            *(f"{split[key]:,}" for key in ("duplicate_captions", "captions_too_long")),
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
    """Parses the flags, looks and says."""
    parser = Parser("data_pipelines.doctor", __doc__)
    add = parser.add_argument
    own = [name for name, row in DATASETS.items() if not row.rendered]
    add("--dataset", required=True, help=f"one of {', '.join(own)}")
    add("--videos", type=Path, required=True, help="folder of the videos")
    add("--annotations", type=Path, required=True, help="annotation files, or the file")
    add("--num_frames", type=int, help="fewer frames make a video short")
    add("--tokens", type=int, default=77, help="the most of a caption")
    add("--decode", action="store_true", help="decode the frames as well")
    add("--workers", type=int, help="processes; one for each core")
    add("--seconds", type=float, default=120.0, help="what one file may take")
    add("--max_megabytes", type=int, default=4096, help="what one file may have")
    add("--json", action="store_true", help="print JSON instead of a table")
    flags = parser.parse_args(arguments)
    check_positive(flags, "num_frames", "tokens", "workers", "seconds", "max_megabytes")
    quiet_libraries()
    findings = diagnose(
        flags.dataset,
        flags.videos,
        flags.annotations,
        num_frames=flags.num_frames,
        tokens=flags.tokens,
        decode=flags.decode,
        workers=Workers(flags.workers, flags.seconds),
        max_megabytes=flags.max_megabytes,
    )
    if flags.json:
        say(json.dumps(findings, indent=1))
    else:
        show(findings)


if __name__ == "__main__":
    main()
