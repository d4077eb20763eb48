"""Reads the published annotations of LSMDC: tab-separated, without a header."""

import collections
from pathlib import Path

from data_pipelines.catalog.annotations import Annotations
from data_pipelines.catalog.readers import read_lines
from data_pipelines.console.errors import UserError

FILES = {
    "train": "LSMDC16_annos_training.csv",
    "validation": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
# Clip, start and end as aligned, start and end as extracted, sentence.
FIELDS = 6


def read(folder: Path) -> Annotations:
    """Reads every pair of a clip and a sentence; a clip may have several."""
    found = Annotations({}, [])
    for split, name in FILES.items():
        path = found.read(folder / name)
        sentences = collections.defaultdict(list)
        for number, line in read_lines(path):
            cells = line.split("\t")
            if len(cells) != FIELDS:
                raise UserError(
                    f"{path}, line {number}: {len(cells)} fields instead of {FIELDS}, "
                    "set apart by tabs"
                )
            sentences[cells[0].strip()].append(cells[-1])
        found.add_split(split, list(sentences), sentences)
    return found
