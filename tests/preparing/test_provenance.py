"""What shards were made of, and when two differ."""

import json

import pytest

from data_pipelines.catalog.annotations import Video
from data_pipelines.preparing.provenance import (
    FILE,
    difference,
    left_out,
    provenance_of,
    read_provenance,
    recipe_of,
    warn_of_difference,
)


@pytest.fixture
def made(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("video,caption\n")

    def make(captions=("one",), left=0, frames=12, size=224, ignored=False):
        splits = {"test": [Video("a", ("a.mp4",), captions)]}
        method = recipe_of(frames, size, ignored)
        return provenance_of("custom", method, [file], splits, {"test": left})

    return make


def test_what_is_told(made):
    told = made(left=3)
    assert set(told) >= {"sampler", "resize", "codec", "libraries", "annotations"}
    assert len(told["annotations"]["rows.csv"]) == 64
    assert told["splits"]["test"]["videos"] == 1
    assert left_out(told, "test") == 3
    assert left_out(told, "validation") == left_out({}, "test") == 0


def test_only_what_matters_is_a_difference(made):
    assert difference(made(), made()) == ""
    assert difference({}, made()) == difference(made(), {}) == ""
    assert "test split had 1 videos, 1 captions" in difference(
        made(), made(captions=("one", "two"))
    )
    assert "others" in difference(made(), made(captions=("two",)))
    assert "num_frames was 12 and is 24" in difference(made(), made(frames=24))
    other = made()
    other["libraries"] = {**other["libraries"], "pillow": "1.0"}
    assert "libraries was" in difference(made(), other)
    elsewhere = {**made(captions=("two",)), "dataset": "msvd"}
    assert difference(made(), elsewhere) == ""


def test_a_difference_is_one_line_of_warning(made, capsys):
    warn_of_difference(None, made())
    warn_of_difference(made(), made())
    assert capsys.readouterr().err == ""
    warn_of_difference(made(), made(frames=24, size=48))
    said = capsys.readouterr().err
    assert said.startswith("warning: this data is not the training data: num_f")
    assert said.count("\n") == 1


def test_a_folder_without_any(tmp_path):
    assert read_provenance(tmp_path) == {}


def test_what_is_done_with_pixels_that_are_not_square_matters(made):
    assert "pixel_aspect was" in difference(made(), made(ignored=True))
    assert recipe_of(12, 224).digest != recipe_of(12, 224, True).digest


def test_every_compared_field_is_read_back(made, tmp_path):
    (tmp_path / FILE).write_text(json.dumps(made()))
    read = read_provenance(tmp_path)
    assert read == made()
    assert "display was" in difference({**read, "display": "as stored"}, read)
