"""Studies: the grid, the search, what a failure costs, the page."""

import csv
import dataclasses
import re

import jax
import pytest

from data_pipelines.console.errors import UserError
from data_pipelines.datasets.demo import world
from vop_jax import ablate as command
from vop_jax.model.methods import METHODS
from vop_jax.study import grid as module
from vop_jax.study.cells import STUDIES, Cell, Published, Study
from vop_jax.study.grid import StudyRuns, cell_config
from vop_jax.study.page import write_csv, write_study_page
from vop_jax.training.config import default_values

LAYERS = {"demo": 4, "paper": 12}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("name", STUDIES)
def test_every_cell_is_a_configuration(name, layers):
    cells = STUDIES[name].cells(layers)
    assert len({cell.name for cell in cells}) == len(cells) > 1
    for cell in cells:
        config = cell_config(cell, default_values, 1.0, 0)
        total = [
            getattr(config.prompts, f"{kind}_length")
            for kind in ("video", "position", "context")
        ]
        if "length" not in cell.name and "update" not in cell.name:
            assert sum(total) in (0, 8)


def test_the_paper_has_all_methods():
    cells = STUDIES["table1"].cells(12)
    assert [cell.name for cell in cells] == list(METHODS)
    # Methods after the paper have no figures in it.
    since = {"lora", "vop_lora", "ivfusion", "discovla", "tempme"}
    since |= {"dgl_linear", "dgl_transformer", "mv_adapter"}
    assert {x.name for x in cells if not x.published} == since


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(world, "SPLITS", {"train": 32, "validation": 16, "test": 16})
    data = str(tmp_path_factory.mktemp("data"))

    def values(method):
        small = {"epochs": 1, "batch_size": 16, "data_dir": data}
        return default_values(method) | small

    yield values
    patch.undo()


CELLS = [
    Cell("none", "zero_shot", published=Published((1.0, 2.0, 3.0))),
    Cell("proj", "proj", published=Published((4.0, 5.0, 6.0), 7.0)),
    Cell("broken", "vop", {"prompts.first_layer": 9}),
    Cell("text", "vop", {"prompts.video_length": 0}, series="curve", x=2),
]


@pytest.fixture(scope="module")
def study(base, tmp_path_factory):
    output = tmp_path_factory.mktemp("study")
    patch = pytest.MonkeyPatch()
    patch.setitem(STUDIES, "small", Study("A <small> study", lambda layers: CELLS))
    ablation = StudyRuns("small", base, output, [0, 1], [0.5, 1.0])
    reports = []
    ablation.run(lambda: reports.append(dict(ablation.finished)))
    yield ablation, output, reports
    jax.config.update("jax_compilation_cache_dir", None)
    patch.undo()


@pytest.mark.slow
def test_one_failure_leaves_the_others(study):
    ablation, _, reports = study
    assert list(ablation.failed) == ["broken"]
    assert "first_layer is 9" in ablation.failed["broken"]
    assert {k: len(v) for k, v in ablation.finished.items()} == {
        "none": 1,
        "proj": 2,
        "text": 2,
    }
    assert [len(x) for x in reports] == [1, 2, 2, 3]


@pytest.mark.slow
def test_a_search_leaves_its_figures_only(study):
    _, output, _ = study
    # Two rates with the first seed, one with the second.
    assert len(list((output / "cells" / "proj").iterdir())) == 3
    assert not list(output.glob("cells/*/*/checkpoints"))


@pytest.mark.slow
@pytest.mark.parametrize("better", [5e-4, 1e-3])
def test_the_rate_is_chosen_on_the_validation_split(study, monkeypatch, better):
    def run_once(config, folder, like):
        rate = config.optimizer.learning_rate
        score = 20.0 if rate == better else 10.0
        sides = {f"R@{k}": score for k in (1, 5, 10)}
        # The test split would choose the other one.
        other = {name: -value for name, value in sides.items()}
        figures = {"t2v": other, "v2t": other, "learning_rate": rate}
        return figures | {"validation": {"t2v": sides, "v2t": sides}}

    monkeypatch.setattr(module, "run_once", run_once)
    monkeypatch.setattr(study[0], "_found", {})
    chosen = study[0]._cell(CELLS[1])
    assert [run["learning_rate"] for run in chosen] == [better] * 2


@pytest.mark.slow
def test_a_shorter_search_is_kept_apart(study, monkeypatch):
    """A rate's short run is never taken for a final one."""
    runs = []

    def run_once(config, folder, like):
        runs.append((config.epochs, config.seed, folder.path))
        sides = dict.fromkeys(("R@1", "R@5", "R@10"), 1.0)
        return {"validation": {"t2v": sides, "v2t": sides}}

    monkeypatch.setattr(module, "run_once", run_once)
    ablation = study[0]
    monkeypatch.setattr(ablation, "_search_epochs", 3)
    monkeypatch.setattr(ablation, "_found", {})
    ablation._cell(CELLS[1])
    assert [run[:2] for run in runs] == [(3, 0), (3, 0), (1, 0), (1, 1)]
    assert len({run[2] for run in runs}) == 4


@pytest.mark.slow
def test_what_is_finished_is_not_run_again(study, base, monkeypatch):
    first, output, _ = study
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("trained again"))
    again = StudyRuns("small", base, output, [0, 1], [0.5, 1.0])
    again.run(lambda: None)
    assert again.finished == first.finished


@pytest.mark.slow
def test_a_page_says_that_nothing_was_searched(study, tmp_path):
    write_study_page(
        tmp_path / "index.html",
        study=study[0].study,
        cells=CELLS,
        untuned=study[0].untuned,
        finished=study[0].finished,
        failed={},
        dataset="demo",
        epochs=2,
        searched=False,
    )
    text = " ".join((tmp_path / "index.html").read_text().split())
    assert "Each run had 2 epochs; learning rates are the methods' own, none" in text


@pytest.mark.slow
def test_chosen_cells_alone_are_run(study, base, tmp_path, monkeypatch):
    first, output, _ = study
    some = StudyRuns("small", base, tmp_path, [0, 1], [1.0], only=["text"])
    some.run(lambda: None)
    assert list(some.finished) == ["text"]
    assert not some.failed
    # What the others have is read, and kept in the table.
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("trained again"))
    again = StudyRuns("small", base, output, [0, 1], [0.5, 1.0], only=["proj"])
    reports = []
    again.run(lambda: reports.append(1))
    assert again.finished == first.finished
    # A third seed is missing from all but the one without seeds.
    more = StudyRuns("small", base, output, [0, 1, 2], [0.5, 1.0], only=["none"])
    more.run(lambda: None)
    assert list(more.finished) == ["none"]


@pytest.mark.slow
def test_a_search_is_run_for_the_cell_that_takes_its_rate(base, tmp_path, monkeypatch):
    ran = []

    def run_once(config, folder, shared):
        ran.append(folder.path.parent.name)
        folder.path.mkdir(parents=True)
        folder.results.write_text("{}")
        sides = dict.fromkeys(("R@1", "R@5", "R@10"), 1.0)
        ways = {"t2v": sides, "v2t": sides}
        return ways | {"validation": ways, "learning_rate": 0.1}

    cells = [Cell("first", "proj"), Cell("second", "proj", rate_of="first")]
    small = Study("A small study", lambda layers: cells)
    monkeypatch.setitem(STUDIES, "small", small)
    monkeypatch.setattr(module, "run_once", run_once)
    runs = StudyRuns("small", base, tmp_path, [0], [0.5, 1.0], 1, only=["second"])
    runs.run(lambda: None)
    assert ran == ["first", "first", "second"]
    assert list(runs.finished) == ["second"]


@pytest.mark.slow
def test_a_cell_that_is_not_there(study, base, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "assemble", lambda *_: pytest.fail("data were read"))
    with pytest.raises(UserError, match=r"cell of small 'txt' is not one of .*text"):
        StudyRuns("small", base, tmp_path, [0], [1.0], only=["txt"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("epochs", 2, r"epochs is 1 there and 2 here\); use another --output"),
        ("loss", "sigmoid", r"loss is 'auto' there and 'sigmoid' here"),
    ],
)
def test_runs_of_other_settings_are_not_mixed(
    study, base, monkeypatch, field, value, says
):
    """Not even of cells that are not to be run; and what is there stays."""
    _, output, _ = study
    monkeypatch.setattr(module, "assemble", lambda *_: pytest.fail("data were read"))

    def other(method):
        return base(method) | {field: value}

    with pytest.raises(UserError, match=says) as error:
        StudyRuns("small", other, output, [0, 1], [0.5, 1.0], only=["text"])
    assert "\n" not in str(error.value)


@pytest.mark.campaign
def test_a_shorter_search_is_no_other_setting(study, base, tmp_path, monkeypatch):
    """Its runs have epochs of their own; the final ones are compared."""
    some = StudyRuns("small", base, tmp_path, [0], [0.5, 1.0], 2, only=["text"])
    some.run(lambda: None)
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("trained again"))
    again = StudyRuns("small", base, tmp_path, [0], [0.5, 1.0], 2, only=["text"])
    again.run(lambda: None)
    assert again.finished == some.finished


@pytest.mark.slow
def test_lines_count_the_cells_that_run(study, base, capsys):
    _, output, _ = study
    some = StudyRuns("small", base, output, [0, 1], [0.5, 1.0], only=["none", "proj"])
    some.run(lambda: None)
    lines = [x for x in capsys.readouterr().out.splitlines() if "R@1" in x]
    assert [line.split(":")[0] for line in lines] == ["1/2 none", "2/2 proj"]
    assert "learning rate" not in lines[0]
    assert "seeds" not in lines[0]
    assert "over 2 seeds, learning rate" in lines[1]


@pytest.mark.slow
def test_the_csv_and_the_page(study, tmp_path):
    ablation, _, _ = study
    write_csv(tmp_path / "x.csv", ablation.finished)
    with (tmp_path / "x.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["cell"] for line in lines] == ["none", "proj", "proj", "text", "text"]
    found = ablation.finished["proj"][1]
    assert float(lines[2]["t2v_R@1"]) == found["t2v"]["R@1"]
    assert lines[2]["seed"] == "1"
    families = {x for x in lines[0] if x.startswith("twins_")}
    assert families == {f"twins_{x}" for x in found["twins"]["families"]}
    write_study_page(
        tmp_path / "index.html",
        study=ablation.study,
        cells=[*CELLS, dataclasses.replace(CELLS[1], name="later")],
        untuned=ablation.untuned,
        finished=ablation.finished,
        failed=ablation.failed,
        dataset="demo",
        epochs=1,
        searched=True,
    )
    page = (tmp_path / "index.html").read_text()
    assert "A &lt;small&gt; study" in page
    # The published figures, the curve and the table's dots, what is open, what failed.
    assert "<td>4.0</td><td>5.0</td><td>6.0</td><td>7.0</td>" in page
    assert page.count("<svg") == 2
    assert "Not run yet: later." in page
    text = " ".join(page.split())
    assert "Each run had 1 epoch; each learning rate was chosen on the" in text
    assert "<b>broken</b>" in page
    assert "±" in page
    assert "src=" not in page


@pytest.mark.parametrize(
    ("name", "says"), [("table9", "'table9' is not one of table1")]
)
def test_mistakes(name, says, tmp_path):
    with pytest.raises(UserError, match=says):
        StudyRuns(name, default_values, tmp_path, [0], [1.0])


def test_an_interrupt_in_a_cell_is_no_failed_cell(monkeypatch):
    ablation = object.__new__(StudyRuns)
    ablation.cells, ablation.failed, ablation._rates = CELLS, {}, [0.5, 1.0]
    ablation._seeds, ablation._search_epochs = [0], 0
    ablation._chosen = CELLS

    def cell(_):
        raise RuntimeError("INTERNAL: CpuCallback error")

    monkeypatch.setattr(ablation, "_cell", cell)
    monkeypatch.setattr(module, "is_interrupted", lambda: True)
    reports = []
    with pytest.raises(RuntimeError, match="CpuCallback"):
        ablation.run(lambda: reports.append(1))
    assert not ablation.failed
    assert not reports

    def mistaken(*_):
        raise UserError("turned into a mistake")

    monkeypatch.setattr(ablation, "_once", mistaken)
    with pytest.raises(UserError, match="turned into"):
        ablation._score(CELLS[1], 1.0)


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--seeds=a", r"--seeds='a' is not a list of numbers"),
        ("--seeds=0,1,0", "names a number twice"),
        ("--rates=nan", r"--rates='nan' is out of range"),
        ("--rates=1,1.0", "names a number twice"),
        ("--rates=1,3,1.001", "1.0 and 1.001, which are less than 1% apart"),
        (f"--seeds={'9' * 5000}", "--seeds='999"),
        ("--cells=", "'' has an empty name; write names like vop,vop_fc"),
        ("--cells=vop,", "'vop,' has an empty name"),
    ],
)
def test_a_wrong_number_names_its_flag(flag, says, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ablate", "--study=table1", flag])
    with pytest.raises(SystemExit) as end:
        command.main()
    line = capsys.readouterr().err
    assert end.value.code == 2
    assert re.search(says, line)
    assert line.count("\n") == 1
    assert len(line) < 250


def test_flags_reach_the_cells(monkeypatch, tmp_path):
    """The loss of all but a method with one of its own, and the rows to run."""
    taken = {}

    class Recorder:
        def __init__(self, name, base, output, *args, only):
            taken.update(base=base, only=only)
            raise UserError("seen enough")

    monkeypatch.setattr(module, "StudyRuns", Recorder)
    flags = ["--loss=sigmoid", "--cells=vop,lora,vop", f"--output={tmp_path / 'x'}"]
    monkeypatch.setattr("sys.argv", ["ablate", "--study=table1", *flags])
    with pytest.raises(SystemExit):
        command.main()
    assert taken["only"] == ["vop", "lora"]
    losses = {name: taken["base"](name)["loss"] for name in ("vop", "lora", "discovla")}
    assert losses == {"vop": "sigmoid", "lora": "sigmoid", "discovla": "alignment"}
