"""DiDeMo as it is published, for paragraph retrieval."""

import collections
from pathlib import Path

from data_pipelines.annotations import (
    Annotations,
    expect,
    fields,
    read_json,
    read_list,
)

# The published names of the splits.
SPLITS = {"train": "train", "validation": "val", "test": "test"}


def read(folder: Path) -> Annotations:
    """All descriptions of a video, joined by a space in the file's order."""
    found = Annotations({}, [])
    for split, name in SPLITS.items():
        listed = read_list(found.read(folder / f"{name}_list.txt"))
        said = _descriptions(found.read(folder / f"{name}_data.json"))
        captions = {video: [" ".join(parts)] for video, parts in said.items()}
        stems = [stem(file) for file in listed]
        found.add_split(split, stems, captions, own_captions=True)
    return found


def stem(file: str) -> str:
    """A listed file's name without its ending, which may be a bare dot."""
    return file.rpartition(".")[0] or file


def _descriptions(path: Path) -> dict[str, list[str]]:
    descriptions = collections.defaultdict(list)
    for i, moment in enumerate(expect(read_json(path), list, str(path))):
        where = f"{path}: [{i}]"
        video, description = fields(moment, ["video", "description"], where)
        key = stem(expect(video, str, f"{where}.video"))
        description = expect(description, str, f"{where}.description").strip()
        if description:
            descriptions[key].append(description)
    return descriptions
