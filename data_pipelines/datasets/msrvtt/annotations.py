"""Reads the published annotations of MSR-VTT, with the test split 1k-A."""

import collections
from pathlib import Path
from typing import Annotated

from typing_extensions import TypedDict

from data_pipelines.catalog.annotations import Annotations
from data_pipelines.catalog.readers import read_annotations, read_table
from data_pipelines.files.json_files import StopAtFirst

TEST = "MSRVTT_JSFUSION_test.csv"
CAPTIONS = "MSRVTT_data.json"


class Sentence(TypedDict):
    """The fields of a sentence that are read."""

    video_id: str
    caption: str


class Captions(TypedDict):
    """The fields of the caption file that are read."""

    sentences: Annotated[list[Sentence], StopAtFirst()]


def read_9k(folder: Path) -> Annotations:
    """Reads the split with 9,000 training videos."""
    return _read(folder, "MSRVTT_train.9k.csv")


def read_7k(folder: Path) -> Annotations:
    """Reads the split with 7,010 training videos."""
    return _read(folder, "MSRVTT_train.7k.csv")


def _read(folder: Path, train_list: str) -> Annotations:
    found = Annotations({}, [])
    train = found.read(folder / train_list)
    ids = [row["video_id"].strip() for _, row in read_table(train, ["video_id"])]
    captions = _captions(found.read(folder / CAPTIONS))
    found.add_split("train", ids, captions)
    test = found.read(folder / TEST)
    sentences = collections.defaultdict(list)
    for _, row in read_table(test, ["video_id", "sentence"]):
        sentences[row["video_id"].strip()].append(row["sentence"])
    found.add_split("test", list(sentences), sentences)
    return found


def _captions(path: Path) -> dict[str, list[str]]:
    captions = collections.defaultdict(list)
    for sentence in read_annotations(path, Captions)["sentences"]:
        captions[sentence["video_id"]].append(sentence["caption"])
    return captions
