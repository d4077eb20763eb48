"""The shared TFDS builder: one record per video, frames as stored JPEG bytes."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_pipelines.annotations import Annotations, Video
from data_pipelines.datasets import find_dataset
from data_pipelines.errors import UserError
from data_pipelines.frames_file import frames_path, read_frames, read_notes
from data_pipelines.provenance import method_of, provenance_of
from data_pipelines.terminal import progress
from data_pipelines.video_files import VideoFiles, find_video
from data_pipelines.video_job import Job, Result
from data_pipelines.workers import Workers

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


@contextlib.contextmanager
def _sorted_features() -> Iterator[None]:
    """Makes the bytes of a record the same in every process.

    A record's features are a map of protobuf, written in an order that differs from one
    process to the next unless it is asked to sort.
    """

    def serialize(self, example):
        return self.get_tf_example(example).SerializeToString(deterministic=True)

    with mock.patch.object(ExampleSerializer, "serialize_example", serialize):
        yield


class VideoBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prepares a data set of videos and captions.

    A subclass is a name: the table of data sets says how its annotations are read, and
    everything else is shared. First every video's frames are finished, by processes or
    whatever else `run_jobs` is, each in a file of its own, so that what was broken off
    goes on where it was; then the shards are written from them in the annotations'
    order, the same bytes whoever finished what.

    Args:
        videos: the folder of the videos; below it they are found by stem.
        annotations: the folder of the annotation files, or for `custom` the file.
        work_dir: where finished frames are kept until the shards are whole.
        num_frames: F; the data set's own by default.
        image_size: pixels, likewise.
        limits: what is done with files that are not clean.
        run_jobs: does the work on the videos; a process for each core by default.

    Attributes:
        unclean: by split the files that were not clean, with their status.
        provenance: what the shards were made of, once they are.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        videos: str | Path,
        annotations: str | Path,
        work_dir: str | Path,
        num_frames: int | None = None,
        image_size: int | None = None,
        limits: Limits | None = None,
        run_jobs: RunJobs | None = None,
        **kwargs,
    ):
        self._row = find_dataset(self.name)
        self._videos, self._annotations = Path(videos), Path(annotations)
        self._num_frames = num_frames or self._row.num_frames
        self._image_size = image_size or self._row.image_size
        self._limits = limits or Limits()
        self._run_jobs = run_jobs or Workers().run
        method = method_of(self._num_frames, self._image_size)
        # Frames that another version made are not taken over.
        self._frames_folder = Path(work_dir).absolute() / method.digest[:16]
        self.unclean: dict[str, list[dict[str, str]]] = {}
        self.provenance: dict[str, Any] = {}
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        folder = Path(str(sys.modules[type(self).__module__].__file__)).parent
        readme, citations = folder / "README.md", folder / "CITATIONS.bib"
        return tfds.core.DatasetInfo(
            builder=self,
            description=readme.read_text() if readme.exists() else type(self).__doc__,
            citation=citations.read_text() if citations.exists() else None,
            features=tfds.features.FeaturesDict(
                {
                    "video_id": tfds.features.Text(),
                    "frames": tfds.features.Video(
                        (self._num_frames, self._image_size, self._image_size, 3),
                        encoding_format="jpeg",
                    ),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                    "extras": tfds.features.Text(),
                }
            ),
            # Keys are the position in the split, so that the order is kept.
            disable_shuffling=True,
        )

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        with _sorted_features():
            super()._download_and_prepare(*args, **kwargs)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        found = self._row.read(self._annotations)
        records = find_records(found, self._videos)
        finished = self._finish(records)
        kept = {
            split: [record for record in listed if record.file in finished]
            for split, listed in records.items()
        }
        left_out = {split: len(records[split]) - len(kept[split]) for split in kept}
        for split, listed in kept.items():
            if not listed:
                raise UserError(
                    f"no video of the {split} split could be read; is "
                    f"--videos={self._videos} the right folder?"
                )
        self.provenance = provenance_of(
            self.name,
            method_of(self._num_frames, self._image_size),
            found.files,
            {split: [x.video for x in listed] for split, listed in kept.items()},
            left_out,
        )
        return {split: self._generate(kept[split]) for split in kept}

    # TFDS asks for a method of this name; each split has its own records.
    def _generate_examples(self) -> Iterator[Any]:
        raise NotImplementedError

    def _generate(self, records: list[Record]) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, (video, file) in enumerate(records):
            assert file is not None
            finished = read_frames(frames_path(self._frames_folder, file))
            if finished is None:
                raise UserError(
                    f"{file} was changed while it was prepared; run the command again"
                )
            yield (
                key,
                {
                    "video_id": video.video_id,
                    # Encoded bytes are stored as they are given.
                    "frames": finished.frames,
                    "captions": list(video.captions),
                    "extras": json.dumps(video.extras),
                },
            )

    def _finish(self, records: dict[str, list[Record]]) -> set[Path]:
        """Finishes the frames of all files; returns the files that have some."""
        failed: dict[Path, Result] = {}
        # A gap in a split that judges is found before hours go into training videos.
        order = sorted(records, key=lambda split: split not in JUDGED)
        for split in order:
            self._check_gaps(split, records[split], failed)
        for split in order:
            failed |= self._run(split, [x.file for x in records[split] if x.file])
            self._check_gaps(split, records[split], failed)
        notes: dict[Path, list[str]] = {}
        for split, listed in records.items():
            self.unclean[split] = []
            for record in listed:
                if record.file is not None and record.file not in failed:
                    path = frames_path(self._frames_folder, record.file)
                    notes[record.file] = read_notes(path) or []
                self.unclean[split] += self._lines(record, failed, notes)
        return set(notes)

    def _run(self, split: str, files: list[Path]) -> dict[Path, Result]:
        """Finishes the frames of files; returns those that give none."""
        jobs = {}
        for file in dict.fromkeys(files):
            path = frames_path(self._frames_folder, file)
            if read_notes(path) is None:
                jobs[file] = Job(
                    str(file),
                    str(path),
                    self._num_frames,
                    self._image_size,
                    self._limits.max_bytes,
                )
        failed: dict[Path, Result] = {}
        if not jobs:
            return failed
        with progress(f"{self.name} {split}", total=len(jobs), unit="videos") as bar:
            for job, result in self._run_jobs(list(jobs.values())):
                if result.status:
                    failed[Path(job.video)] = result
                shown = {"unreadable": str(len(failed))} if failed else {}
                bar.advance(1, **shown)
        return failed

    def _check_gaps(
        self, split: str, records: list[Record], failed: dict[Path, Result]
    ) -> None:
        if split not in JUDGED or self._limits.allow_missing_test:
            return
        gaps = [x for x in records if x.file is None or x.file in failed]
        if not gaps:
            return
        video, file = gaps[0]
        why = failed[file].message if file else f"{video.files[0]} is in no folder"
        more = f" (and {len(gaps) - 1} more: see doctor)" if len(gaps) > 1 else ""
        raise UserError(
            f"{split} video {video.video_id}: {why}{more}; mend the file, or leave it "
            "out and say so with --allow-missing-test"
        )

    def _lines(
        self,
        record: Record,
        failed: dict[Path, Result],
        notes: dict[Path, list[str]],
    ) -> list[dict[str, str]]:
        """What the report says of a video."""
        video, file = record
        about = {"video_id": video.video_id}
        if file is None:
            looked = " or ".join(video.files)
            return [{**about, "status": "missing", "message": f"no file {looked}"}]
        if file in failed:
            status, message = failed[file].status, failed[file].message
            return [{**about, "status": status, "message": message}]
        return [{**about, "status": note, "message": str(file)} for note in notes[file]]
