"""The shared TFDS builder: one record per video, frames as stored JPEG bytes."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from data_pipelines.errors import UserError
from data_pipelines.frames import (
    VideoError,
    decode_uniform,
    encode_jpeg,
    resize_and_crop,
)

REPORT = "files.json"


class Record(NamedTuple):
    """One video before preparation.

    Attributes:
        video_id: unique within the split.
        path: the file.
        captions: all its captions.
        extras: anything else worth keeping, JSON values.
    """

    video_id: str
    path: Path
    captions: tuple[str, ...]
    extras: dict[str, Any]


class VideoBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prepares a data set of videos and captions.

    Subclasses say which records a split has; everything else is shared: decoding,
    resizing, JPEG, and the report of files that were not clean.

    Args:
        num_frames: F.
        image_size: pixels.
        allow_missing_test: whether test videos without frames are left out and counted
            instead of refused.
    """

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION = "Videos with captions, as uniform frames."
    SPLITS: tuple[str, ...] = ("train", "validation", "test")

    def __init__(
        self,
        *,
        num_frames: int = 12,
        image_size: int = 224,
        allow_missing_test: bool = False,
        **kwargs,
    ):
        self._num_frames = num_frames
        self._image_size = image_size
        self._allow_missing_test = allow_missing_test
        self.unclean: dict[str, list[dict[str, str]]] = {}
        super().__init__(**kwargs)

    def records(self, split: str) -> Iterable[Record]:
        """The split's videos, in the order they are to be stored."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
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

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(split) for split in self.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        unclean = self.unclean.setdefault(split, [])
        key = 0
        for record in self.records(split):
            if not all(caption.strip() for caption in record.captions or ("",)):
                raise UserError(
                    f"{split} video {record.video_id} has an empty caption; mend the "
                    "annotations"
                )
            try:
                decoded = decode_uniform(record.path, self._num_frames)
            except VideoError as error:
                unclean.append({"video_id": record.video_id, "status": error.status})
                if split == "test" and not self._allow_missing_test:
                    raise UserError(
                        f"test video {record.video_id}: {error}; mend the file, or "
                        "leave it out and say so with --allow-missing-test"
                    ) from None
                continue
            unclean += [
                {"video_id": record.video_id, "status": note} for note in decoded.notes
            ]
            # Encoded bytes are stored as they are given.
            frames = [
                encode_jpeg(resize_and_crop(frame, self._image_size))
                for frame in decoded.frames
            ]
            yield (
                key,
                {
                    "video_id": record.video_id,
                    "frames": frames,
                    "captions": list(record.captions),
                    "extras": json.dumps(record.extras),
                },
            )
            key += 1
