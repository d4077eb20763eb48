"""The provenance of prepared shards: what they were made from, and comparisons."""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, MaxLen
from etils import epath
from typing_extensions import TypedDict

from data_pipelines.catalog.annotations import Video
from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import warn
from data_pipelines.decoding.images import JPEG_QUALITY
from data_pipelines.decoding.resizing import CLIP_RESIZING, Resizing
from data_pipelines.files.json_files import (
    LARGEST_ANNOTATIONS,
    described,
    read_bytes,
    read_described,
    shown,
)

FILE = "provenance.json"
# Fields in which two preparations must agree for their metrics to be comparable.
_COMPARED = (
    *("sampler", "display", "pixel_aspect", "resize", "codec"),
    *("num_frames", "image_size", "libraries"),
)
_LIBRARIES = ("av", "numpy", "pillow")


_Count = Annotated[int, Ge(0)]
_Word = Annotated[str, MaxLen(1_000)]


class MadeSplit(TypedDict):
    """A split in `provenance.json`."""

    videos: _Count
    captions: _Count
    left_out: _Count
    sha256: Annotated[str, MaxLen(64)]


class Provenance(TypedDict, total=False):
    """The content of `provenance.json`."""

    dataset: _Word
    sampler: _Word
    resize: _Word
    codec: _Word
    display: _Word
    num_frames: _Count
    image_size: _Count
    pixel_aspect: _Word
    libraries: dict[str, _Word]
    annotations: dict[str, _Word]
    films: _Word
    splits: dict[str, MadeSplit]


class FrameRecipe(NamedTuple):
    """How frames are made, as JSON values, and the hash of these values."""

    values: dict[str, Any]
    digest: str


def pixel_aspect_of(ignored: bool) -> str:
    """The treatment of non-square pixels, in the words of the provenance."""
    return "ignored" if ignored else "stretched to square pixels by PIL's bicubic"


def recipe_of(
    num_frames: int,
    image_size: int,
    ignore_pixel_aspect: bool = False,
    resizing: Resizing = CLIP_RESIZING,
) -> FrameRecipe:
    """How this installation makes frames."""
    values = {
        "num_frames": num_frames,
        "image_size": image_size,
        "sampler": "middle frame of equal intervals of all decodable frames",
        "display": "FFmpeg's best video stream; turned and mirrored by its matrix",
        "pixel_aspect": pixel_aspect_of(ignore_pixel_aspect),
        "resize": resizing.words,
        "codec": f"JPEG, quality {JPEG_QUALITY}, 4:4:4",
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
    return FrameRecipe(values, _sha256(json.dumps(values, sort_keys=True).encode()))


def provenance_of(
    dataset: str,
    recipe: FrameRecipe,
    files: Sequence[Path],
    splits: Mapping[str, Sequence[Video]],
    left_out: Mapping[str, int],
) -> dict[str, Any]:
    """The provenance that is written beside the shards.

    Args:
        dataset: its name.
        recipe: how the frames were made.
        files: the annotation files.
        splits: the videos that the shards hold.
        left_out: by split, the number of videos without decodable frames.

    Returns:
        JSON values, which depend neither on the time nor on the machine.
    """
    return {
        "dataset": dataset,
        **recipe.values,
        "annotations": annotation_hashes(files),
        "splits": {
            name: {
                "videos": len(videos),
                "captions": sum(len(video.captions) for video in videos),
                "left_out": left_out[name],
                "sha256": _sha256_of((x.video_id, x.captions) for x in videos),
            }
            for name, videos in splits.items()
        },
    }


def check_split(
    path: epath.PathLike,
    provenance: Mapping[str, Any],
    split: str,
    videos: Iterable[tuple[str, Sequence[str]]],
) -> None:
    """Checks that a split's records are those that were prepared, in their order.

    Args:
        path: the folder of the shards.
        provenance: of the shards; empty if there is none, and nothing is checked.
        split: its name.
        videos: the id and the captions of every record.

    Raises:
        UserError: they are others, as in shards copied from two preparations.
    """
    made = provenance.get("splits", {}).get(split)
    if made is not None and made["sha256"] != _sha256_of(videos):
        raise UserError(
            f"{path}: the records of {split} are not those that {FILE} was written "
            "for; remove the folder and prepare it again"
        )


def _sha256_of(videos: Iterable[tuple[str, Sequence[str]]]) -> str:
    return _sha256(json.dumps(list(videos)).encode())


def annotation_hashes(files: Sequence[Path]) -> dict[str, str]:
    """The sha256 of each annotation file by its name."""
    return {path.name: _sha256(read_bytes(path, LARGEST_ANNOTATIONS)) for path in files}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_provenance(path: epath.PathLike) -> dict[str, Any]:
    """Reads the provenance of shards; empty if there is none.

    Raises:
        UserError: the file is damaged, or of another kind.
    """
    file = epath.Path(path) / FILE
    if not file.exists():
        return {}
    return {**read_described(file, Provenance)}


def difference(trained: Mapping[str, Any], used: Mapping[str, Any]) -> str:
    """How the evaluated data differs from the training data; empty if it does not.

    Splits are compared if both are of the same data set.
    """
    found = [
        f"{key} was {shown(trained[key])} and is {shown(used[key])}"
        for key in _COMPARED
        if key in trained and key in used and trained[key] != used[key]
    ]
    if trained.get("dataset") == used.get("dataset"):
        for name, split in trained.get("splits", {}).items():
            other = used.get("splits", {}).get(name)
            if other is not None and other["sha256"] != split["sha256"]:
                found.append(
                    f"the {name} split had {split['videos']} videos, "
                    f"{split['captions']} captions and has {other['videos']}, "
                    f"{other['captions']}, or others"
                )
    return "; ".join(found)


def check_resizing(
    path: epath.PathLike, provenance: Mapping[str, Any], resizing: Resizing
) -> None:
    """Checks that shards have the frames that a model wants.

    Args:
        path: the folder of the shards.
        provenance: of the shards; empty if there is none, and nothing is checked.
        resizing: how the model wants frames made square.

    Raises:
        UserError: they were made square in another way.
    """
    made = provenance.get("resize")
    if made is not None and made != resizing.words:
        raise UserError(
            f"{path} has frames resized by {shown(made)}, and the backbone wants "
            f"{shown(resizing.words)}; prepare the data set again with "
            f"--resize={resizing.resize} --filter={resizing.filter}"
        )


def left_out(provenance: Mapping[str, Any], split: str) -> int:
    """Number of videos of a split without decodable frames, absent from its metrics."""
    return provenance.get("splits", {}).get(split, {}).get("left_out", 0)


def warn_of_difference(
    trained: Mapping[str, Any] | None, used: Mapping[str, Any]
) -> None:
    """Warns in one line if the data differs from the training data."""
    known = described(trained or {}, Provenance, "results.json: data")
    found = difference({**known}, used)
    if found:
        warn(f"this data is not the training data: {found}")
