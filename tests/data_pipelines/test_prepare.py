"""Preparing a data set: order, files that cannot be read, nothing half-written."""

import types
from typing import ClassVar

import numpy as np
import pytest

from data_pipelines import prepare as module
from data_pipelines.builder import Record, VideoBuilder
from data_pipelines.datasets import DATASETS
from data_pipelines.demo.builder import write_video
from data_pipelines.errors import UserError
from data_pipelines.feed import load_split


class Tiny(VideoBuilder, skip_registration=True):
    """Videos of one grey each; the test puts them where they are looked for."""

    name = "tiny"
    rows: ClassVar[dict] = {}

    def records(self, split):
        for name, path, captions in self.rows.get(split, ()):
            yield Record(name, path, captions, {"split": split})


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Writes one video a split, in an order that no sorting would give."""
    rows = {}
    for grey, split in enumerate(Tiny.SPLITS):
        for name in ("b", "a"):
            path = tmp_path / f"{split}_{name}.mp4"
            write_video(path, np.full((4, 16, 16, 3), 60 * (grey + 1), np.uint8))
            rows.setdefault(split, []).append((name, path, (f"{split} {name}", "x")))
    monkeypatch.setattr(Tiny, "rows", rows)
    row = types.SimpleNamespace(num_frames=2, image_size=16, load=lambda: Tiny)
    monkeypatch.setitem(DATASETS, "tiny", row)
    return rows


def test_what_is_prepared_is_what_is_loaded(tiny, tmp_path, capsys):
    path = module.prepare("tiny", tmp_path / "out")
    assert capsys.readouterr().out == ""
    for name in Tiny.SPLITS:
        split = load_split(path, name)
        assert split.video_ids == ["b", "a"]
        assert split.captions == [f"{name} b", "x", f"{name} a", "x"]
        assert split.video_of_caption.tolist() == [0, 0, 1, 1]
        assert split.frames.shape == (2, 2)
        assert split.extras == [{"split": name}] * 2
    # A second time nothing is read again.
    for rows in tiny.values():
        for _, file, _ in rows:
            file.unlink()
    assert module.prepare("tiny", tmp_path / "out") == path


def test_a_training_video_that_cannot_be_read_is_left_out_and_listed(tiny, tmp_path):
    tiny["train"][0][1].write_bytes(b"no video")
    path = module.prepare("tiny", tmp_path / "out")
    assert load_split(path, "train").video_ids == ["a"]
    assert '"video_id": "b"' in (path / "files.json").read_text()


def test_a_test_video_that_cannot_be_read_is_refused(tiny, tmp_path):
    tiny["test"][1][1].write_bytes(b"no video")
    with pytest.raises(UserError, match=r"test video a: .*--allow-missing-test"):
        module.prepare("tiny", tmp_path / "out")
    path = module.prepared_path("tiny", tmp_path / "out", 2, 16)
    assert not path.exists()
    module.prepare("tiny", tmp_path / "out", allow_missing_test=True)
    assert load_split(path, "test").video_ids == ["b"]


@pytest.mark.parametrize("captions", [("fine", " "), ()])
def test_an_empty_caption_is_refused(tiny, tmp_path, captions):
    tiny["train"][1] = (*tiny["train"][1][:2], captions)
    with pytest.raises(UserError, match="train video a has an empty caption"):
        module.prepare("tiny", tmp_path / "out")
    assert not list(tmp_path.glob("out/*/tiny/*"))


def test_what_was_never_prepared(tiny, tmp_path):
    with pytest.raises(UserError, match="holds no prepared data set; run"):
        load_split(tmp_path, "train")
    path = module.prepare("tiny", tmp_path / "out")
    with pytest.raises(UserError, match="has no split 'dev', only"):
        load_split(path, "dev")
    with pytest.raises(UserError, match="'msr-vtt' is not one of"):
        module.prepare("msr-vtt", tmp_path)
