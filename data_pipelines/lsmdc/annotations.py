"""LSMDC as it is published: tab-separated, without a header."""

import collections
from pathlib import Path

from data_pipelines.annotations import Annotations, read_lines
from data_pipelines.errors import UserError

FILES = {
    "train": "LSMDC16_annos_training.csv",
    "validation": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
# Clip, start, end, the same two as they were cut, sentence.
FIELDS = 6


def read(folder: Path) -> Annotations:
    """Every pair of a clip and a sentence; clips that repeat have several."""
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
