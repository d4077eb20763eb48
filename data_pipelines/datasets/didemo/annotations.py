"""Reads the published annotations of DiDeMo, for paragraph retrieval."""

import collections
from pathlib import Path
from typing import Annotated

from typing_extensions import TypedDict

from data_pipelines.catalog.annotations import Annotations
from data_pipelines.catalog.readers import read_annotations, read_list
from data_pipelines.files.json_files import StopAtFirst

# The published names of the splits.
SPLITS = {"train": "train", "validation": "val", "test": "test"}


class Moment(TypedDict):
    """The fields of a moment that are read."""

    video: str
    description: str


def read(folder: Path) -> Annotations:
    """One paragraph per video: its descriptions in order, joined by a space."""
    found = Annotations({}, [])
    for split, name in SPLITS.items():
        listed = read_list(found.read(folder / f"{name}_list.txt"))
        said = _descriptions(found.read(folder / f"{name}_data.json"))
        captions = {video: [" ".join(parts)] for video, parts in said.items()}
        stems = [stem(file) for file in listed]
        found.add_split(split, stems, captions, own_captions=True)
    return found


def stem(file: str) -> str:
    """A listed file's name without its suffix, which may be a bare dot."""
    return file.rpartition(".")[0] or file


def _descriptions(path: Path) -> dict[str, list[str]]:
    descriptions = collections.defaultdict(list)
    for moment in read_annotations(path, Annotated[list[Moment], StopAtFirst()]):
        description = moment["description"].strip()
        if description:
            descriptions[stem(moment["video"])].append(description)
    return descriptions
