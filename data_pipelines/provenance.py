"""What prepared shards were made of, and whether two agree."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from data_pipelines.annotations import Video
from data_pipelines.frames import JPEG_QUALITY
from data_pipelines.terminal import warn

FILE = "provenance.json"
# What two preparations must share for their figures to be compared.
_COMPARED = ("sampler", "resize", "codec", "num_frames", "image_size", "libraries")
_LIBRARIES = ("av", "numpy", "pillow")


class Method(NamedTuple):
    """How frames are made, as JSON values, and the hash of that."""

    values: dict[str, Any]
    digest: str


def method_of(num_frames: int, image_size: int) -> Method:
    """How this installation makes frames."""
    values = {
        "num_frames": num_frames,
        "image_size": image_size,
        "sampler": "middle frame of equal intervals of all decodable frames",
        "resize": "shorter side by PIL's antialiased bicubic, centre crop",
        "codec": f"JPEG, quality {JPEG_QUALITY}, 4:4:4",
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
    return Method(values, _sha256(json.dumps(values, sort_keys=True).encode()))


def provenance_of(
    dataset: str,
    method: Method,
    files: Sequence[Path],
    splits: Mapping[str, Sequence[Video]],
    left_out: Mapping[str, int],
) -> dict[str, Any]:
    """What is written beside the shards.

    Args:
        dataset: its name.
        method: how the frames were made.
        files: the annotation files.
        splits: the videos that the shards hold.
        left_out: how many of each split gave no frames.

    Returns:
        JSON values; nothing in them depends on when or where.
    """
    return {
        "dataset": dataset,
        **method.values,
        "annotations": annotation_hashes(files),
        "splits": {
            name: {
                "videos": len(videos),
                "captions": sum(len(video.captions) for video in videos),
                "left_out": left_out[name],
                "sha256": _sha256(
                    json.dumps([(x.video_id, x.captions) for x in videos]).encode()
                ),
            }
            for name, videos in splits.items()
        },
    }


def annotation_hashes(files: Sequence[Path]) -> dict[str, str]:
    """The sha256 of each annotation file by its name."""
    return {path.name: _sha256(path.read_bytes()) for path in files}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_provenance(path: epath.PathLike) -> dict[str, Any]:
    """What lies beside shards; empty where nothing does."""
    try:
        return json.loads((epath.Path(path) / FILE).read_text())
    except (OSError, ValueError):
        return {}


def difference(trained: Mapping[str, Any], used: Mapping[str, Any]) -> str:
    """How the data that is used differs from that of the training, empty where not.

    The training's own splits are compared where both are of one data set.
    """
    found = [
        f"{key} was {json.dumps(trained[key])} and is {json.dumps(used[key])}"
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


def left_out(provenance: Mapping[str, Any], split: str) -> int:
    """How many videos of a split gave no frames and are not counted in its figures."""
    return provenance.get("splits", {}).get(split, {}).get("left_out", 0)


def warn_of_difference(
    trained: Mapping[str, Any] | None, used: Mapping[str, Any]
) -> None:
    """Warns in one line where data differ from those of the training."""
    found = difference(trained or {}, used)
    if found:
        warn(f"these data are not those of the training: {found}")
