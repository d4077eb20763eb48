"""The shared TFDS builder: one record per video, frames as stored JPEG bytes."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.frame_store import frames_path, read_frames
from data_pipelines.preparing.decode_all import AnnotatedFile, Finished


@contextlib.contextmanager
def _sorted_features() -> Iterator[None]:
    """Makes the bytes of a record the same in every process.

    A record's features are a protobuf map, whose order differs between processes unless
    serialization is asked to be deterministic.
    """

    def serialize(self, example):
        return self.get_tf_example(example).SerializeToString(deterministic=True)

    with mock.patch.object(ExampleSerializer, "serialize_example", serialize):
        yield


class VideoBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the shards of a data set whose frames are decoded.

    A subclass only gives a name and a folder with README and citations; the table of
    data sets says how its annotations are read, and everything else is shared. Records
    are written in the annotations' order, so the bytes do not depend on the order of
    decoding.

    Args:
        finished: the result of `data_pipelines.preparing.decode_all.finish`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, finished: Finished, **kwargs):
        self._finished = finished
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        finished, size = self._finished, self._finished.image_size
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
                        (finished.num_frames, size, size, 3),
                        encoding_format="jpeg",
                    ),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                    "extras": tfds.features.Text(),
                }
            ),
            # Keys are positions in the split, so that the order is kept.
            disable_shuffling=True,
        )

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        with _sorted_features():
            super()._download_and_prepare(*args, **kwargs)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        records = self._finished.records
        return {split: self._generate(records[split]) for split in records}

    # TFDS requires a method of this name; each split has its own records.
    def _generate_examples(self) -> Iterator[Any]:
        raise NotImplementedError

    def _generate(
        self, records: list[AnnotatedFile]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, (video, file) in enumerate(records):
            assert file is not None
            finished = read_frames(frames_path(self._finished.folder, file))
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
