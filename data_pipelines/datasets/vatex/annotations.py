"""Reads annotations of VATEX in the usual form of three lists of ids."""

from pathlib import Path

from data_pipelines.catalog.annotations import Annotations
from data_pipelines.datasets.msvd.annotations import read_lists

CAPTIONS = "ref_captions.json"


def read(folder: Path) -> Annotations:
    """Reads three lists of ids, and all captions of each video."""
    return read_lists(folder, CAPTIONS)
