"""MSR-VTT as it is published, with test 1k-A."""

import collections
from pathlib import Path

from data_pipelines.annotations import (
    Annotations,
    expect,
    fields,
    read_json,
    read_table,
)

TEST = "MSRVTT_JSFUSION_test.csv"
CAPTIONS = "MSRVTT_data.json"


def read_9k(folder: Path) -> Annotations:
    """9,000 training videos."""
    return _read(folder, "MSRVTT_train.9k.csv")


def read_7k(folder: Path) -> Annotations:
    """7,010 training videos."""
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
    (sentences,) = fields(read_json(path), ["sentences"], str(path))
    for i, sentence in enumerate(expect(sentences, list, f"{path}: sentences")):
        where = f"{path}: sentences[{i}]"
        video_id, caption = fields(sentence, ["video_id", "caption"], where)
        captions[expect(video_id, str, f"{where}.video_id")].append(
            expect(caption, str, f"{where}.caption")
        )
    return captions
