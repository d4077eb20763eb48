"""Reads the published annotations of MSVD, with the captions converted to JSON."""

from pathlib import Path

from data_pipelines.catalog.annotations import Annotations
from data_pipelines.catalog.readers import read_caption_lists, read_list
from data_pipelines.console.errors import UserError

SPLITS = {"train": "train", "validation": "val", "test": "test"}
CAPTIONS = "captions_msvd.json"
PICKLE = "raw-captions.pkl"


def read(folder: Path) -> Annotations:
    """Reads three lists of ids, and all captions of each video.

    Raises:
        UserError: the captions are only there as a pickle, which could run code.
    """
    if (folder / PICKLE).exists() and not (folder / CAPTIONS).exists():
        raise UserError(
            f"{folder / PICKLE} is a pickle, which is not read since it can run code; "
            f'write it as {CAPTIONS}: {{"id": ["caption", ...]}}'
        )
    return read_lists(folder, CAPTIONS)


def read_lists(folder: Path, caption_file: str) -> Annotations:
    """Reads three lists of ids, and a JSON object of captions."""
    found = Annotations({}, [])
    captions = read_caption_lists(found.read(folder / caption_file))
    for split, name in SPLITS.items():
        ids = read_list(found.read(folder / f"{name}_list.txt"))
        found.add_split(split, ids, captions)
    return found
