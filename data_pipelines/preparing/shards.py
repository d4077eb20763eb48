"""The shared TFDS builder: one record per video, frames as stored JPEG bytes."""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest import mock

import tensorflow_datasets as tfds
from tensorflow_datasets.core import file_adapters
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.splits import SplitDict

from data_pipelines.catalog.annotations import Video
from data_pipelines.console.errors import UserError
from data_pipelines.decoding.frame_store import frames_path, read_frames
from data_pipelines.preparing.decode_all import AnnotatedFile, Finished


@contextlib.contextmanager
def _sorted_features() -> Iterator[None]:
    """Makes the bytes of a record the same in every process.

    A record's features are a protobuf map, whose order differs between processes unless
    serialization is asked to be deterministic.
    """
    with mock.patch.object(ExampleSerializer, "serialize_example", _sorted_bytes):
        yield


def _sorted_bytes(serializer: ExampleSerializer, example: Any) -> bytes:
    return serializer.get_tf_example(example).SerializeToString(deterministic=True)


def features_of(num_frames: int, image_size: int) -> tfds.features.FeaturesDict:
    """What a record holds.

    Args:
        num_frames: F.
        image_size: height and width, pixels.
    """
    return tfds.features.FeaturesDict(
        {
            "video_id": tfds.features.Text(),
            "frames": tfds.features.Video(
                (num_frames, image_size, image_size, 3), encoding_format="jpeg"
            ),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "extras": tfds.features.Text(),
        }
    )


def example_of(video: Video, frames: Sequence[bytes]) -> dict[str, Any]:
    """The values of a record.

    Args:
        video: what is annotated.
        frames: JPEG bytes; encoded bytes are stored as they are given.
    """
    return {
        "video_id": video.video_id,
        "frames": frames,
        "captions": list(video.captions),
        "extras": json.dumps(video.extras),
    }


class RecordWriter:
    """Writes records as the builder writes them, byte for byte.

    Args:
        num_frames: F.
        image_size: height and width, pixels.
    """

    def __init__(self, num_frames: int, image_size: int):
        self._features = features_of(num_frames, image_size)
        info = self._features.get_serialized_info()
        self._serializer = ExampleSerializer(cast(Any, info))

    def write(self, path: Path, examples: Iterable[Mapping[str, Any]]) -> list[int]:
        """Writes a file of records; returns their sizes in bytes.

        Args:
            path: a file of this machine.
            examples: the values of each record, of `example_of`.
        """
        sizes = []

        def serialized() -> Iterator[tuple[int, bytes]]:
            for example in examples:
                encoded = self._features.encode_example(example)
                record = _sorted_bytes(self._serializer, encoded)
                sizes.append(len(record))
                yield len(sizes), record

        adapter = file_adapters.ADAPTER_FOR_FORMAT[file_adapters.FileFormat.TFRECORD]
        adapter.write_examples(path, serialized())
        return sizes


class WrittenSplit(NamedTuple):
    """The shards of a split.

    Attributes:
        lengths: records of each shard.
        size: bytes of all records, without what a file adds to each.
    """

    lengths: Sequence[int]
    size: int


class VideoBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the shards of a data set whose frames are decoded.

    A subclass only gives a name and a folder with README and citations; the table of
    data sets says how its annotations are read, and everything else is shared. Records
    are written in the annotations' order, so the bytes do not depend on the order of
    decoding.

    Args:
        finished: the result of `data_pipelines.preparing.decode_all.finish`.
        written: by split, the shards that are written elsewhere; then none is written
            here, and only the files beside them.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        finished: Finished,
        written: Mapping[str, WrittenSplit] | None = None,
        **kwargs,
    ):
        self._finished, self._written = finished, written
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        finished, size = self._finished, self._finished.image_size
        folder = Path(str(sys.modules[type(self).__module__].__file__)).parent
        readme, citations = folder / "README.md", folder / "CITATIONS.bib"
        return tfds.core.DatasetInfo(
            builder=self,
            description=readme.read_text() if readme.exists() else type(self).__doc__,
            citation=citations.read_text() if citations.exists() else None,
            features=features_of(finished.num_frames, size),
            # Keys are positions in the split, so that the order is kept.
            disable_shuffling=True,
        )

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        if self._written is not None:
            self.info.set_splits(self._splits(self._written))
            return
        with _sorted_features():
            super()._download_and_prepare(*args, **kwargs)

    def _splits(self, written: Mapping[str, WrittenSplit]) -> SplitDict:
        return SplitDict(
            [
                tfds.core.SplitInfo(
                    name=name,
                    shard_lengths=list(about.lengths),
                    num_bytes=about.size,
                    filename_template=self._get_filename_template(name),
                )
                for name, about in written.items()
            ]
        )

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
            yield key, example_of(video, finished.frames)
