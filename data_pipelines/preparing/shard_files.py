"""Validation of the JSON files beside prepared shards and of their records."""

import os
import re
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Ge, Le, Len, MaxLen
from etils import epath
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import (
    Matches,
    described,
    read_described,
    read_json,
)
from data_pipelines.files.regular_files import open_regular
from data_pipelines.preparing.limits import FRAMES, SIDES

_Digits = Annotated[str, Matches(r"^[0-9]{1,15}$")]
_Name = Annotated[str, Matches("^[A-Za-z][A-Za-z0-9_]{0,99}$")]
# A template of file names, with the placeholders of TFDS.
_TEMPLATE = (
    r"^(?:[A-Za-z0-9_.-]|\{(?:DATASET|SPLIT|FILEFORMAT|SHARD_INDEX|NUM_SHARDS|SHARD_X_OF_Y)\})"
    r"{1,100}$"
)
_NODES = re.compile(r"\{\{.*?\}\}|Error in user-defined function .*?Iterator::\S+: ")
# Most bytes of a video's frames, which are all in memory at once.
_MOST_BYTES = 2 << 30


class SplitInfo(TypedDict):
    """A split in `dataset_info.json`."""

    name: _Name
    shardLengths: Annotated[list[_Digits], MaxLen(10_000)]
    filepathTemplate: NotRequired[Annotated[str, Matches(_TEMPLATE)]]


class DatasetInfo(TypedDict):
    """The fields of `dataset_info.json` that are read."""

    name: _Name
    version: Annotated[str, Matches(r"^[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}$")]
    fileFormat: NotRequired[Literal["tfrecord"]]
    splits: Annotated[list[SplitInfo], Len(1, 100)]


class TextFeature(TypedDict):
    """A feature that is a string."""

    pythonClassName: Literal["tensorflow_datasets.core.features.text_feature.Text"]


class SequenceOf(TypedDict):
    """The element type of a sequence."""

    feature: TextFeature


class SequenceFeature(TypedDict):
    """A feature that is any number of strings."""

    pythonClassName: Literal[
        "tensorflow_datasets.core.features.sequence_feature.Sequence"
    ]
    sequence: SequenceOf


class Shape(TypedDict):
    """Frames, height, width, channels, as strings."""

    dimensions: Annotated[list[_Digits], Len(4, 4)]


class VideoShape(TypedDict):
    """How frames are stored."""

    shape: Shape
    encodingFormat: Literal["jpeg"]


class VideoFeature(TypedDict):
    """A feature that is the frames of a video."""

    pythonClassName: Literal["tensorflow_datasets.core.features.video_feature.Video"]
    video: VideoShape


class Features(TypedDict):
    """The features of a record."""

    video_id: TextFeature
    frames: VideoFeature
    captions: SequenceFeature
    extras: TextFeature


class FeaturesDict(TypedDict):
    """The features by their names."""

    features: Features


class FeaturesFile(TypedDict):
    """The `features.json`."""

    pythonClassName: Literal[
        "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    ]
    featuresDict: FeaturesDict


class Place(TypedDict):
    """The position of a demo clip in its group, from a record's extras."""

    family: Annotated[str, MaxLen(100)]
    group: Annotated[int, Ge(0), Le(10**9)]
    variant: Annotated[int, Ge(0), Le(10**9)]
    twin: Literal[0, 1]


class FileStatus(TypedDict):
    """The fields of a line of `files.json` that are read: the outcome of a file."""

    status: Annotated[str, MaxLen(100)]


Report = dict[str, list[FileStatus]]


def check_frame_sizes(num_frames: int, image_size: int) -> None:
    """Checks that prepared videos of this size can be written and read.

    Raises:
        UserError: they cannot.
    """
    for name, value, allowed in (
        ("num_frames", num_frames, FRAMES),
        ("image_size", image_size, SIDES),
    ):
        if value not in allowed:
            raise UserError(f"{name} is {value}; it must be {allowed}")
    if (size := 3 * num_frames * image_size**2) > _MOST_BYTES:
        raise UserError(
            f"num_frames {num_frames} of image_size {image_size} are "
            f"{size >> 20:,} MiB for each video; take at most {_MOST_BYTES >> 20:,}"
        )


def check_shard_files(folder: epath.Path) -> None:
    """Checks that a folder is safe to open with TFDS.

    TFDS imports whatever classes `features.json` names.

    Raises:
        UserError: a file is missing, damaged, or not as `prepare` writes it.
    """
    read_described(folder / "dataset_info.json", DatasetInfo)
    path = folder / "features.json"
    values = read_json(path)
    features = described(values, FeaturesFile, str(path))["featuresDict"]["features"]
    stated = values["featuresDict"]["features"]
    if len(stated) != len(features):
        raise UserError(f"{path} has {len(stated)} features, not {len(features)}")
    frames, *sides, channels = map(
        int, features["frames"]["video"]["shape"]["dimensions"]
    )
    sizes_fit = sides[0] == sides[1] and sides[0] in SIDES
    if not (frames in FRAMES and sizes_fit and channels == 3):
        raise UserError(
            f"{path}: frames have the shape {[frames, *sides, channels]}; prepare "
            "writes up to 4,096 square RGB frames of up to 8,192 pixels a side"
        )


def check_extras(value: Any, where: str) -> dict[str, Any]:
    """Validates the extras of a video: an object, whose known keys are checked.

    Raises:
        UserError: they are not valid.
    """
    extras = described(value, dict, where)
    if extras.keys() & Place.__annotations__.keys():
        described(extras, Place, where)
    return extras


def damaged(file: str, why: str) -> UserError:
    """The error for a shard that cannot be read."""
    # TensorFlow wraps its message in names of nodes and stages.
    why = _NODES.sub("", " ".join(why.split())).partition(" [[")[0]
    if "corrupted record" in why:
        why = why[why.index("corrupted record") :]
    why = " ".join(why.split())
    return UserError(
        f"{file} is damaged ({why[:120]}); remove its folder and prepare it again"
    )


def file_size(file: str) -> int:
    """The size of a file in bytes; `epath` would also look up its owner."""
    if "://" in file:
        return epath.Path(file).stat().length
    return os.stat(file).st_size


def check_lengths(file: str) -> None:
    """Checks that every record ends within its file.

    TensorFlow allocates the length that a record states, and ends the process if there
    is not enough memory. In an object store each read costs a request, so files there
    are not checked.
    """
    if "://" in file:
        return
    try:
        # A pipe in a shard's place would be waited for, for ever.
        with open_regular(file) as records:
            size = os.fstat(records.fileno()).st_size
            position = 0
            while head := records.read(8):
                position += 16 + int.from_bytes(head, "little")
                if position > size:
                    raise damaged(file, "corrupted record, longer than its file")
                records.seek(position)
    except OSError as error:
        raise damaged(file, error.strerror or "cannot be read") from None


def shard_names(path: epath.PathLike, about: Any) -> list[str]:
    """The names of a split's files, in order."""
    try:
        names = sorted(about.filenames)
    # The template is stored under a name of the field that TFDS does not read.
    except (KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} names no shards ({reason})") from None
    if any("/" in name for name in names):
        raise UserError(f"{path} names shards outside of it; prepare it again")
    return names
