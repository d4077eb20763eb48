"""Reads ActivityNet Captions as published, for paragraph retrieval on val_1."""

from pathlib import Path

from typing_extensions import TypedDict

from data_pipelines.catalog.annotations import Annotations
from data_pipelines.catalog.readers import Strings, read_annotations, read_items

SPLITS = {
    "train": ("train_ids.json", "train.json"),
    "test": ("val_ids.json", "val_1.json"),
}


class Entry(TypedDict):
    """The fields of a video's entry that are read."""

    sentences: Strings


def read(folder: Path) -> Annotations:
    """One paragraph per video: its sentences, stripped and joined by a space."""
    found = Annotations({}, [])
    for split, (id_file, caption_file) in SPLITS.items():
        path = found.read(folder / id_file)
        ids = read_annotations(path, Strings)
        captions = _paragraphs(found.read(folder / caption_file))
        # File names often lack the prefix.
        files = {video: (video, video.removeprefix("v_")) for video in ids}
        found.add_split(split, ids, captions, files=files, own_captions=True)
    return found


def _paragraphs(path: Path) -> dict[str, list[str]]:
    paragraphs = {}
    for video, entry in read_items(path, Entry):
        said = (x.strip() for x in entry["sentences"])
        paragraphs[video] = [" ".join(x for x in said if x)]
    return paragraphs
