"""VATEX in the usual three lists."""

from pathlib import Path

from data_pipelines.annotations import Annotations
from data_pipelines.msvd.annotations import read_lists

CAPTIONS = "ref_captions.json"


def read(folder: Path) -> Annotations:
    """Three lists of ids, and all captions of each."""
    return read_lists(folder, CAPTIONS)
