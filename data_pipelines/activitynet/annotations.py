"""ActivityNet Captions as it is published, for paragraph retrieval on val_1."""

from pathlib import Path

from data_pipelines.annotations import (
    Annotations,
    expect,
    fields,
    read_json,
    strings,
)

SPLITS = {
    "train": ("train_ids.json", "train.json"),
    "test": ("val_ids.json", "val_1.json"),
}


def read(folder: Path) -> Annotations:
    """A video's sentences, stripped and joined by a space."""
    found = Annotations({}, [])
    for split, (id_file, caption_file) in SPLITS.items():
        path = found.read(folder / id_file)
        ids = strings(read_json(path), str(path))
        captions = _paragraphs(found.read(folder / caption_file))
        # Files often lack the prefix.
        files = {video: (video, video.removeprefix("v_")) for video in ids}
        found.add_split(split, ids, captions, files=files, own_captions=True)
    return found


def _paragraphs(path: Path) -> dict[str, list[str]]:
    paragraphs = {}
    for video, entry in expect(read_json(path), dict, str(path)).items():
        where = f"{path}: {video!r}"
        (sentences,) = fields(entry, ["sentences"], where)
        said = (x.strip() for x in strings(sentences, f"{where}.sentences"))
        paragraphs[video] = [" ".join(x for x in said if x)]
    return paragraphs
