"""The output of `vop-jax train --videos`: nobody else's files, and refused early."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import say
from vop_jax.own_data import steps
from vop_jax.own_data.known import Known
from vop_jax.own_data.outcome import check_data, check_results, next_steps
from vop_jax.own_data.pairs import Pairs
from vop_jax.own_data.steps import Asked, train_on_own
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.search import _parse
from vop_jax.training.config import check_config, default_values

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
    names = [f"{i}.mp4" for i in range(6)]
    file = {"size": 0, "mtime_ns": 0, "content": "", "unreadable": ""}
    captions, files = {x: [] for x in names}, dict.fromkeys(names, file)
    known = json.dumps(KNOWN | {"captions": captions, "files": files})
    (output / "own_data.json").write_text(known)
    with pytest.raises(UserError, match="num_frames is 12 there and 2 here"):
        train(own, output, num_frames=2)
    assert {x.name for x in output.iterdir()} == {"config.json", "own_data.json"}


LEFT = (
    *("results.json", "tuned.safetensors", "metrics.jsonl", "report/index.html"),
    *("checkpoints/3/state", "tensorboard/events"),
)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", LEFT)
def test_files_of_a_run_without_its_configuration_are_in_the_way(
    own, unopened, name, known
):
    path = own / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    if known:
        (own / "out/own_data.json").write_text(json.dumps(KNOWN))
    before = contents(own)
    with pytest.raises(UserError, match=r"is in the way, .*; use another --output"):
        train(own, own / "out")
    assert contents(own) == before


def test_a_clip_s_folder_is_not_a_run(own, unopened):
    (own / "out").mkdir()
    (own / "out/config.json").write_text('{"vision_config": {}}')
    (own / "out/own_data.json").write_text(json.dumps(KNOWN))
    with pytest.raises(UserError, match="not made from a file of captions"):
        train(own, own / "out")


METRICS = {"R@1": 1.0, "R@5": 2.0, "MdR": 3.0}
ENDS = {name: [0.0, 4.0] for name in METRICS}
RESULTS = {
    **{"method": "vop", "queries": 4, "videos": 2, "compared_with": {}},
    **dict.fromkeys(("t2v", "v2t"), METRICS),
    "intervals": dict.fromkeys(("t2v", "v2t"), ENDS),
}


DIFFERENCE = {"value": 1.0, "p": 5.0}
AGAINST = dict.fromkeys(("t2v", "v2t"), dict.fromkeys(METRICS, DIFFERENCE))
BAD = RESULTS | {"intervals": {"t2v": ENDS, "v2t": ENDS | {"R@5": [100.0, 0.0]}}}


def results_with(first, second, value):
    return json.dumps(RESULTS | {first: {**RESULTS[first], second: value}})


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("nothing", "is not JSON"),
        ("{}", "results.json"),
        (json.dumps(RESULTS | {"t2v": {}}), "t2v"),
        (json.dumps(RESULTS | {"against_untuned": 3}), "against_untuned"),
        (json.dumps(RESULTS | {"method": "vop_p"}), "of the method vop_p, and the run"),
        (json.dumps(RESULTS | {"dataset": "msrvtt_9k"}), "of the data set msrvtt_9k"),
        (results_with("t2v", "R@1", float("nan")), "is NaN; it must be at most 100"),
        (results_with("t2v", "R@5", float("inf")), "it must be at most 100"),
        (results_with("v2t", "R@1", -1.0), "it must be at least 0"),
        (results_with("v2t", "MdR", 0.5), "it must be at least 1"),
        (results_with("t2v", "MdR", 1e300), "it must be at most"),
        (results_with("intervals", "t2v", ENDS | {"R@1": [100.0, 0.0]}), "from 100 to"),
        (results_with("intervals", "v2t", ENDS | {"MdR": [1.0, float("inf")]}), "MdR"),
        (json.dumps(RESULTS | {"against_untuned": AGAINST}), "p is 5.0; it must be at"),
        (json.dumps(RESULTS | {"compared_with": {"zero_shot": BAD}}), "from 100 to"),
    ],
)
def test_results_that_cannot_be_the_run_s_are_refused(own, unopened, written, says):
    output = own / "out"
    output.mkdir()
    (output / "config.json").write_text('{"method": "vop", "dataset": "custom"}')
    (output / "own_data.json").write_text(json.dumps(KNOWN))
    (output / "results.json").write_text(written)
    before = contents(own)
    with pytest.raises(UserError, match="remove it, and the same command") as error:
        train(own, output)
    assert says in str(error.value)
    assert contents(own) == before
    (output / "results.json").write_text(json.dumps(RESULTS))
    check_results(RunFolder(output))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"queries": 1000}, "is of 1,000 captions, and the test split has 4"),
        ({"videos": 3}, "is of 3 videos, and the test split has 2"),
        ({"data": {}}, "is of other data (annotations differ)"),
        ({"data": {"films": 3}}, "data.films is 3; it must be a string"),
        ({"films": "other"}, "is of other data (films differ)"),
        ({"splits": {}}, "is of other data (splits differ)"),
    ],
)
def test_results_of_other_data_are_not_told(tmp_path, change, says):
    split = {"videos": 2, "captions": 4, "left_out": 0, "sha256": "x"}
    made = {"annotations": {"captions.csv": "x"}, "films": "y", "num_frames": 2}
    made["splits"] = {"test": split}
    folder = RunFolder(tmp_path)
    folder.results.write_text(json.dumps(RESULTS | {"data": made}))
    check_data(folder, made)
    scored = {x: change[x] for x in ("films", "splits") if x in change}
    content = RESULTS | {"data": made | scored}
    content |= {x: change[x] for x in change if x not in scored}
    folder.results.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        check_data(folder, made)
    assert says in str(error.value)


def test_known_videos_and_captions_that_do_not_agree_are_refused(own, unopened):
    (own / "out").mkdir()
    known = json.dumps(KNOWN | {"captions": {"0.mp4": ["film 0"]}})
    (own / "out/own_data.json").write_text(known)
    with pytest.raises(UserError, match="not of the same videos; use another"):
        train(own, own / "out")


@pytest.mark.parametrize(
    "caption", ["a\x1b[2Jdog\r\nran", "-dogs", "it's \x9b1m", "a dog " * 99]
)
def test_the_next_steps_can_be_copied_whatever_the_caption_is(
    tmp_path, caption, capsys, monkeypatch
):
    pairs = Pairs({"0.mp4": [caption]}, {"0.mp4": [2]}, {})
    odd = tmp_path / "a\x1b[31m run"
    for line in next_steps(odd, odd, pairs):
        say(line)
    printed = capsys.readouterr().out
    assert all(x.isprintable() for x in printed.splitlines())
    (line,) = [x for x in printed.splitlines() if "search query" in x]
    assert len(line) < 500
    # As the shell takes it apart.
    parts = ["bash", "-c", f"printf '%s\\0' {line.strip()}"]
    words = subprocess.run(parts, capture_output=True, check=True).stdout
    python, _, *given, last = words.decode().split("\0")
    assert not last
    # Another Python may not have the project's packages.
    assert (Path.cwd() / python) == Path(sys.executable)
    monkeypatch.setattr(sys, "argv", given)
    flags = _parse()
    assert str(flags.index) == f"{odd}/videos.index"
    assert " ".join(caption.split()).startswith(flags.queries[0])


@pytest.mark.parametrize("fields", [{}, {"epoch_of": "pairs"}])
def test_a_batch_of_more_than_there_is_is_refused_before_decoding(
    own, monkeypatch, fields
):
    table = [f"{i}.mp4" for i in range(6)]
    splits = ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    split = dict(zip(table, splits, strict=True))
    used = Pairs({x: ["a film"] for x in table}, {}, split)
    monkeypatch.setattr(steps, "_looked_at", lambda *_: (used, KNOWN))
    with pytest.raises(UserError, match="batch_size is 64, but the train split has 2"):
        train(own, own / "out", batch_size=64, micro_batch=0, **fields)
    assert not (own / "out").exists()
