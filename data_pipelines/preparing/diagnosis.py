"""Diagnoses a data set: missing, unreadable, short and duplicate videos."""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.catalog.annotations import Annotations, Video
from data_pipelines.catalog.table import Dataset, find_dataset
from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import progress, warn
from data_pipelines.decoding.video_files import VideoFiles, find_video
from data_pipelines.decoding.video_job import DecodeJob, Result
from data_pipelines.decoding.workers import Workers
from data_pipelines.preparing.shard_files import check_frame_sizes
from data_pipelines.text.captions import too_long


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
    ignore_pixel_aspect: bool = False,
) -> dict[str, Any]:
    """Examines a data set; returns the findings as JSON values.

    Args:
        dataset: its name.
        videos: folder of the videos.
        annotations: folder of the annotation files, or the file.
        num_frames: F; the data set's own by default.
        tokens: most tokens of a caption, start and end included.
        decode: whether frames are decoded.
        workers: the pool that examines the files.
        max_megabytes: a larger file counts as `too_large`.
        ignore_pixel_aspect: whether non-square pixels count as square.

    Returns:
        `{"dataset", "splits": {name: {...}}}`: of each split `videos` and `captions`
        that would be used, the published numbers beside them (None if there are
        none), and the ids of problematic videos.

    Raises:
        UserError: the annotations cannot be read, or there is no such folder.
    """
    row = find_dataset(dataset)
    if row.rendered:
        raise UserError(f"{dataset} renders its own videos; there is nothing to check")
    num_frames = num_frames or row.num_frames
    check_frame_sizes(num_frames, 1)
    found = row.read(annotations)
    files = VideoFiles(videos)
    file_of = {
        video.files: find_video(files, video, found.by_path)
        for split in found.splits.values()
        for video in split
    }
    paths = {path for path in file_of.values() if path is not None}
    jobs = [
        DecodeJob(
            str(path),
            "",
            num_frames if decode else 0,
            0,
            max_megabytes << 20,
            ignore_pixel_aspect,
        )
        for path in paths
    ]
    results = _look(jobs, workers or Workers())
    splits = {}
    for name in dict.fromkeys([*row.published, *found.splits]):
        listed = found.splits.get(name, [])
        of_video = {
            video.video_id: results[path] if (path := file_of[video.files]) else None
            for video in listed
        }
        splits[name] = _split(row, found, name, listed, of_video, num_frames, tokens)
    return {"dataset": dataset, "splits": splits}


def _look(jobs: Sequence[DecodeJob], workers: Workers) -> dict[Path, Result]:
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
    if long is None:
        warn(
            f"{name}: captions that are too long are not counted; that takes the "
            "package instant_clip_tokenizer, which Python 3.11 and 3.12 have"
        )
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
        # Number of captions beyond the distinct ones.
        "duplicate_captions": len(captions) - len(times),
        "captions_too_long": None if long is None else sum(long),
        "videos_with_captions_too_long": list(
            dict.fromkeys(
                x for x, cut in zip(whose, long or [], strict=long is not None) if cut
            )
        ),
        "duplicate_ids": found.repeated.get(name, []),
        "without_captions": found.without_captions.get(name, []),
        "unlisted": found.unlisted.get(name, []),
        "empty_captions": found.empty_captions.get(name, 0),
        "also_in": _overlaps(found, name),
    }


def _overlaps(found: Annotations, name: str) -> dict[str, list[str]]:
    """The ids that each other split has as well."""
    own = [video.video_id for video in found.splits.get(name, [])]
    shared = {}
    for other, videos in found.splits.items():
        theirs = {video.video_id for video in videos}
        both = [x for x in own if x in theirs]
        if other != name and both:
            shared[other] = both
    return shared
