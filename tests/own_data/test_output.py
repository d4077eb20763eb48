"""The output of `vop-jax train --videos`: nobody else's files, and refused early."""

import csv
import json
from pathlib import Path

import pytest

from data_pipelines.console.errors import UserError
from data_pipelines.preparing.prepare import prepared_path
from vop_jax.own_data import steps
from vop_jax.own_data.known import Known
from vop_jax.own_data.pairs import Pairs
from vop_jax.own_data.steps import Asked, train_on_own
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training.config import check_config, default_values
from vop_jax.weights.config_file import load_size
from vop_jax.weights.frame_recipes import resizing_of
from vop_jax.weights.locate import EMBEDDED

KNOWN: Known = {"files": {}, "captions": {}, "split_of": {}}


@pytest.fixture
def own(tmp_path):
    """A folder of files that nothing opens, and their captions."""
    rows = [("video", "caption"), *((f"{i}.mp4", f"film {i}") for i in range(6))]
    (tmp_path / "films").mkdir()
    for name, _ in rows[1:]:
        (tmp_path / "films" / name).write_bytes(b"no film")
    with (tmp_path / "captions.csv").open("w") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def train(own, output, *, method="vop", backbone="demo", captions=None, **fields):
    values = default_values(method, "custom", backbone) | fields
    given = frozenset({"method", "backbone", *fields})
    table = captions or own / "captions.csv"
    asked = Asked(own / "films", table, output, leave_out=False, given=given)
    return train_on_own(asked, values)


@pytest.fixture
def unopened(monkeypatch):
    """Fails where the videos are opened: what is refused is refused before."""

    def opened(*_):
        raise AssertionError("the videos were opened")

    monkeypatch.setattr(steps, "looked_at", opened)


def contents(folder):
    return {x: x.read_bytes() for x in folder.rglob("*") if x.is_file()}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("link", [True, False])
def test_captions_in_the_output_are_not_replaced(own, unopened, known, link):
    if known:
        (own / "own_data.json").write_text(json.dumps(KNOWN))
    if link:
        (own / "link.csv").symlink_to(own / "captions.csv")
    before = contents(own)
    with pytest.raises(UserError, match="as they are used; use another --output"):
        train(own, own, captions=own / "link.csv" if link else None)
    assert contents(own) == before


@pytest.mark.parametrize(
    "name", ["captions.csv", "own_data.json", "data/4x32/custom/1.0.0/part"]
)
def test_files_of_someone_else_are_in_the_way(own, unopened, name):
    path = own / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = contents(own)
    with pytest.raises(UserError) as error:
        train(own, own / "out")
    assert str(own / "out" / name.partition("/")[0]) in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(own) == before


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"method": "tempme", "backbone": "demo_siglip"}, "use another method"),
        ({"group_size": 5}, "groups are of videos, not of pairs"),
    ],
)
def test_a_method_that_does_not_fit_is_refused_at_once(own, unopened, fields, says):
    with pytest.raises(UserError, match=says):
        train(own, own / "out", **fields)
    assert not (own / "out").exists()


def test_a_run_of_other_frames_is_refused_at_once(own, unopened):
    output = own / "out"
    output.mkdir()
    config = check_config(default_values("vop", "custom", "demo"))
    begun = config.with_dtype("float32").as_json()
    (output / "config.json").write_text(json.dumps(begun))
    known = json.dumps(KNOWN | {"captions": {f"{i}.mp4": [] for i in range(6)}})
    (output / "own_data.json").write_text(known)
    with pytest.raises(UserError, match="num_frames is 12 there and 2 here"):
        train(own, output, num_frames=2)
    assert {x.name for x in output.iterdir()} == {"config.json", "own_data.json"}


def test_the_same_captions_keep_their_shards(tmp_path, monkeypatch):
    """Also those with the line ends of Windows, which reading as text would change."""
    values = default_values("vop", "custom", "demo")
    config = check_config(values | {"data_dir": str(tmp_path / "data")})
    size = load_size(EMBEDDED["demo"])
    frames = config.num_frames, size.image_size, resizing_of(size)
    shards = Path(prepared_path("custom", config.data_dir, *frames))
    shards.mkdir(parents=True)
    monkeypatch.setattr(steps, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(steps, "report_lines", lambda _: [])
    asked = Asked(tmp_path, tmp_path / "x.csv", tmp_path, False, frozenset())

    def keeps(caption):
        pairs = Pairs({"a.mp4": [caption]}, {"a.mp4": [2]}, {"a.mp4": "train"})
        steps._prepare(asked, RunFolder(tmp_path), config, size, pairs, KNOWN)
        kept = shards.exists()
        shards.mkdir(parents=True, exist_ok=True)
        return kept

    assert not keeps("two\r\nlines")
    assert keeps("two\r\nlines")
    assert not keeps("two\nlines")
