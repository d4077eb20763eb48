"""Every video's frames, finished: found, decoded, stored each in a file of its own.

What was broken off goes on where it was, since a finished video is never done again.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.annotations import Annotations, Video
from data_pipelines.datasets import find_dataset
from data_pipelines.errors import UserError
from data_pipelines.frames_file import frames_path, read_notes
from data_pipelines.provenance import method_of, provenance_of
from data_pipelines.terminal import progress
from data_pipelines.video_files import VideoFiles, find_video
from data_pipelines.video_job import Job, Result

# What a model is chosen and judged by: a gap in them changes the figures.
JUDGED = ("test", "validation")
RunJobs = Callable[[Sequence[Job]], Iterable[tuple[Job, Result]]]


class Record(NamedTuple):
    """A video and its file, None where there is none."""

    video: Video
    file: Path | None


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is done with files that are not clean.

    Attributes:
        allow_missing_test: whether videos of the test and the validation split that
            give no frames are left out and counted instead of refused.
        max_bytes: a larger file counts as `too_large`.
    """

    allow_missing_test: bool = False
    max_bytes: int = 4 << 30


def find_records(found: Annotations, videos: Path) -> dict[str, list[Record]]:
    """The file of every annotated video, by split.

    Raises:
        UserError: there is no such folder.
    """
    files = VideoFiles(videos)
    return {
        split: [
            Record(video, find_video(files, video, found.by_path)) for video in listed
        ]
        for split, listed in found.splits.items()
    }


@dataclasses.dataclass(frozen=True)
class Finished:
    """A data set whose frames are finished.

    Attributes:
        records: the videos that have frames, by split.
        folder: where `frames_file` finds them.
        num_frames: F.
        image_size: pixels.
        unclean: by split the files that were not clean, with their status.
        provenance: what the frames were made of.
    """

    records: dict[str, list[Record]]
    folder: Path
    num_frames: int
    image_size: int
    unclean: dict[str, list[dict[str, str]]]
    provenance: dict[str, Any]


def finish(
    dataset: str,
    *,
    videos: Path,
    annotations: Path,
    work_dir: Path,
    num_frames: int,
    image_size: int,
    limits: Limits,
    run_jobs: RunJobs,
) -> Finished:
    """Finishes the frames of a data set.

    Args:
        dataset: its name.
        videos: the folder of the videos; below it they are found by stem.
        annotations: the folder of the annotation files, or for `custom` the file.
        work_dir: where finished frames are kept.
        num_frames: F.
        image_size: pixels.
        limits: what is done with files that are not clean.
        run_jobs: does the work on the videos.

    Raises:
        UserError: annotations that cannot be read, a gap where none may be, or a split
            of which nothing is left.
    """
    found = find_dataset(dataset).read(annotations)
    records = find_records(found, videos)
    method = method_of(num_frames, image_size)
    # Frames that another version made are not taken over.
    folder = work_dir.absolute() / method.digest[:16]
    work = _Work(dataset, folder, num_frames, image_size, limits, run_jobs)
    unclean = work.finish(records)
    kept = {
        split: [x for x in listed if x.file is not None and x.file not in work.failed]
        for split, listed in records.items()
    }
    for split, listed in kept.items():
        if not listed:
            raise UserError(
                f"no video of the {split} split could be read; is --videos={videos} "
                "the right folder?"
            )
    provenance = provenance_of(
        dataset,
        method,
        found.files,
        {split: [x.video for x in listed] for split, listed in kept.items()},
        {split: len(records[split]) - len(kept[split]) for split in kept},
    )
    return Finished(kept, folder, num_frames, image_size, unclean, provenance)


class _Work:
    """The work on a data set's files; what failed of them is kept in `failed`."""

    def __init__(
        self,
        dataset: str,
        folder: Path,
        num_frames: int,
        image_size: int,
        limits: Limits,
        run_jobs: RunJobs,
    ):
        self._dataset, self._folder = dataset, folder
        self._num_frames, self._image_size = num_frames, image_size
        self._limits, self._run_jobs = limits, run_jobs
        self.failed: dict[Path, Result] = {}

    def finish(
        self, records: dict[str, list[Record]]
    ) -> dict[str, list[dict[str, str]]]:
        """Finishes the frames of all files; returns the report."""
        # A gap in a split that judges is found before hours go into training videos.
        order = sorted(records, key=lambda split: split not in JUDGED)
        for split in order:
            self._check_gaps(split, records[split])
        for split in order:
            self._run(split, [x.file for x in records[split] if x.file])
            self._check_gaps(split, records[split])
        return {
            split: [line for record in listed for line in self._lines(record)]
            for split, listed in records.items()
        }

    def _run(self, split: str, files: list[Path]) -> None:
        """Finishes the frames of files that have none."""
        jobs = []
        for file in dict.fromkeys(files):
            path = frames_path(self._folder, file)
            if file not in self.failed and read_notes(path) is None:
                size = self._num_frames, self._image_size
                jobs.append(Job(str(file), str(path), *size, self._limits.max_bytes))
        if not jobs:
            return
        failures = 0
        with progress(f"{self._dataset} {split}", len(jobs), "videos") as bar:
            for job, result in self._run_jobs(jobs):
                if result.status:
                    self.failed[Path(job.video)] = result
                    failures += 1
                shown = {"unreadable": str(failures)} if failures else {}
                bar.advance(1, **shown)

    def _check_gaps(self, split: str, records: list[Record]) -> None:
        if split not in JUDGED or self._limits.allow_missing_test:
            return
        gaps = [x for x in records if x.file is None or x.file in self.failed]
        if not gaps:
            return
        video, file = gaps[0]
        why = self.failed[file].message if file else f"{video.files[0]} is in no folder"
        more = f" (and {len(gaps) - 1} more: see doctor)" if len(gaps) > 1 else ""
        raise UserError(
            f"{split} video {video.video_id}: {why}{more}; mend the file, or leave it "
            "out and say so with --allow-missing-test"
        )

    def _lines(self, record: Record) -> list[dict[str, str]]:
        """What the report says of a video."""
        video, file = record
        about = {"video_id": video.video_id}
        if file is None:
            looked = " or ".join(video.files)
            return [{**about, "status": "missing", "message": f"no file {looked}"}]
        if file in self.failed:
            status, message = self.failed[file].status, self.failed[file].message
            return [{**about, "status": status, "message": message}]
        notes = read_notes(frames_path(self._folder, file)) or []
        return [{**about, "status": note, "message": str(file)} for note in notes]
