"""Decodes every video of a data set and stores its frames in a file of its own.

An interrupted preparation resumes, since a finished video is never decoded again.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data_pipelines.catalog.annotations import Annotations, Video
from data_pipelines.catalog.table import find_dataset
from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import progress
from data_pipelines.decoding.frame_store import frames_path, read_notes
from data_pipelines.decoding.resizing import CLIP_RESIZING, Resizing
from data_pipelines.decoding.video_files import VideoFiles, find_video
from data_pipelines.decoding.video_job import DecodeJob, Result
from data_pipelines.preparing.provenance import FrameRecipe, provenance_of, recipe_of

if TYPE_CHECKING:
    from etils import epath

# Splits for model selection and evaluation: a missing video would change the metrics.
JUDGED = ("test", "validation")
RunJobs = Callable[[Sequence[DecodeJob]], Iterable[tuple[DecodeJob, Result]]]


class AnnotatedFile(NamedTuple):
    """An annotated video and its file; None if it is missing."""

    video: Video
    file: Path | None


@dataclasses.dataclass(frozen=True)
class Limits:
    """How problematic files are treated.

    Attributes:
        allow_missing_test: whether test and validation videos without decodable frames
            are left out and counted instead of being an error.
        max_bytes: a larger file counts as `too_large`.
        ignore_pixel_aspect: whether non-square pixels count as square.
    """

    allow_missing_test: bool = False
    max_bytes: int = 4 << 30
    ignore_pixel_aspect: bool = False


def find_records(
    found: Annotations, files: VideoFiles
) -> dict[str, list[AnnotatedFile]]:
    """Finds the file of every annotated video, by split."""
    return {
        split: [
            AnnotatedFile(video, find_video(files, video, found.by_path))
            for video in listed
        ]
        for split, listed in found.splits.items()
    }


@dataclasses.dataclass(frozen=True)
class Finished:
    """A data set whose frames are decoded and stored.

    Attributes:
        records: the videos that have frames, by split.
        folder: where `frame_store.frames_path` places them.
        num_frames: F.
        image_size: height and width, pixels.
        unclean: by split, the files that have a problem or a note, with their status.
        provenance: what the frames were made from.
    """

    records: dict[str, list[AnnotatedFile]]
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
    resizing: Resizing = CLIP_RESIZING,
) -> Finished:
    """Decodes and stores the frames of a data set.

    Args:
        dataset: its name.
        videos: the folder of the videos, which are found by their stems (file names
            without suffixes) at any depth.
        annotations: the folder of the annotation files, or for `custom` the file.
        work_dir: where decoded frames are stored.
        num_frames: F.
        image_size: height and width, pixels.
        limits: how problematic files are treated.
        run_jobs: runs the decoding jobs.
        resizing: how frames are made square.

    Raises:
        UserError: the annotations cannot be read, a test or validation video is
            missing, or a split has no video left.
    """
    found = find_dataset(dataset).read(annotations)
    records = find_records(found, VideoFiles(videos))
    recipe = recipe_of(num_frames, image_size, limits.ignore_pixel_aspect, resizing)
    # Frames that another version made in another way are not reused.
    folder = work_dir.absolute() / recipe.digest[:16]

    def job_of(file: Path) -> DecodeJob:
        return DecodeJob(
            str(file),
            str(frames_path(folder, file)),
            num_frames,
            image_size,
            limits.max_bytes,
            limits.ignore_pixel_aspect,
            resizing,
        )

    work = _Work(dataset, folder, job_of, limits, run_jobs)
    unclean = work.finish(records)
    kept = with_frames(records, work.failed, videos)
    provenance = provenance_of_kept(dataset, recipe, found.files, records, kept)
    return Finished(kept, folder, num_frames, image_size, unclean, provenance)


def provenance_of_kept(
    dataset: str,
    recipe: FrameRecipe,
    files: Sequence[Path],
    records: Mapping[str, Sequence[AnnotatedFile]],
    kept: Mapping[str, Sequence[AnnotatedFile]],
) -> dict[str, Any]:
    """`provenance_of`, from all videos of each split and those that were decoded."""
    return provenance_of(
        dataset,
        recipe,
        files,
        {split: [x.video for x in listed] for split, listed in kept.items()},
        {split: len(records[split]) - len(kept[split]) for split in kept},
    )


def order_of(splits: Iterable[str]) -> list[str]:
    """Splits in the order of their decoding.

    A gap in an evaluation split must show before hours go into training videos.
    """
    return sorted(splits, key=lambda split: split not in JUDGED)


def check_gaps(
    split: str,
    records: Sequence[AnnotatedFile],
    failed: Mapping[Path, Result],
    limits: Limits,
) -> None:
    """Checks that no video of an evaluation split is missing.

    Args:
        split: its name.
        records: its videos.
        failed: the files that failed so far.
        limits: whether gaps are allowed.

    Raises:
        UserError: one is.
    """
    if split not in JUDGED or limits.allow_missing_test:
        return
    gaps = [x for x in records if x.file is None or x.file in failed]
    if not gaps:
        return
    video, file = gaps[0]
    why = failed[file].message if file else f"no file {video.files[0]}"
    more = f" (and {len(gaps) - 1} more: see doctor)" if len(gaps) > 1 else ""
    raise UserError(
        f"{split} video {video.video_id}: {why}{more}; fix the file, or leave it "
        "out with --allow-missing-test"
    )


def with_frames(
    records: Mapping[str, Sequence[AnnotatedFile]],
    failed: Mapping[Path, Result],
    videos: "Path | epath.Path",
) -> dict[str, list[AnnotatedFile]]:
    """The videos that have frames, by split.

    Raises:
        UserError: a split has none.
    """
    kept = {
        split: [x for x in listed if x.file is not None and x.file not in failed]
        for split, listed in records.items()
    }
    for split, listed in kept.items():
        if not listed:
            raise UserError(
                f"no video of the {split} split could be read; is --videos={videos} "
                "the right folder?"
            )
    return kept


def report_of(
    records: Mapping[str, Sequence[AnnotatedFile]],
    failed: Mapping[Path, Result],
    notes_of: Callable[[Path], Sequence[str]],
) -> dict[str, list[dict[str, str]]]:
    """The report: by split, the files that have a problem or a note.

    Args:
        records: all videos.
        failed: the files that failed.
        notes_of: the harmless statuses of a file that did not.
    """

    def lines(record: AnnotatedFile) -> list[dict[str, str]]:
        video, file = record
        about = {"video_id": video.video_id}
        if file is None:
            looked = " or ".join(video.files)
            return [{**about, "status": "missing", "message": f"no file {looked}"}]
        if file in failed:
            status, message = failed[file].status, failed[file].message
            return [{**about, "status": status, "message": message}]
        return [
            {**about, "status": note, "message": str(file)} for note in notes_of(file)
        ]

    return {
        split: [line for record in listed for line in lines(record)]
        for split, listed in records.items()
    }


class _Work:
    """The decoding of a data set's files; failures are collected in `failed`."""

    def __init__(
        self,
        dataset: str,
        folder: Path,
        job_of: Callable[[Path], DecodeJob],
        limits: Limits,
        run_jobs: RunJobs,
    ):
        self._dataset, self._folder, self._job_of = dataset, folder, job_of
        self._limits, self._run_jobs = limits, run_jobs
        self.failed: dict[Path, Result] = {}

    def finish(
        self, records: dict[str, list[AnnotatedFile]]
    ) -> dict[str, list[dict[str, str]]]:
        """Decodes all files; returns the report."""
        order = order_of(records)
        for split in order:
            check_gaps(split, records[split], self.failed, self._limits)
        for split in order:
            self._run(split, [x.file for x in records[split] if x.file])
            check_gaps(split, records[split], self.failed, self._limits)
        return report_of(
            records,
            self.failed,
            lambda file: read_notes(frames_path(self._folder, file)) or [],
        )

    def _run(self, split: str, files: list[Path]) -> None:
        """Decodes the files that have no stored frames."""
        jobs = []
        for file in dict.fromkeys(files):
            path = frames_path(self._folder, file)
            if file not in self.failed and read_notes(path) is None:
                jobs.append(self._job_of(file))
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
