"""The study of the methods since VoP: shared searches, costs, the page."""

import csv
import re

import jax
import numpy as np
import pytest

from tests.study.test_ablate import LAYERS, base  # noqa: F401
from vop_jax.model.clip.families import SIZES
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.shapes import abstract_variables
from vop_jax.pages import charts
from vop_jax.pages.charts import Line, line_chart
from vop_jax.study import grid as module
from vop_jax.study import page as page_module
from vop_jax.study.cells import STUDIES, Cell, Study
from vop_jax.study.costs import count_work, time_by_turns
from vop_jax.study.grid import StudyRuns, cell_config
from vop_jax.study.page import write_csv, write_study_page
from vop_jax.study.rates import next_rate
from vop_jax.training.config import default_values

SINCE = STUDIES["since_vop"]


def cells_of(study):
    return {cell.name: cell for cell in study.cells(LAYERS["demo"])}


def test_a_method_joins_when_the_table_has_it(monkeypatch):
    before = cells_of(SINCE)
    assert set(before) <= set(METHODS)
    assert all(cell.rate_of in {"", *before} for cell in before.values())
    assert SINCE.costs_of in before
    monkeypatch.delitem(METHODS, "dgl_linear")
    monkeypatch.setitem(METHODS, "tempme", METHODS["lora"])
    assert set(cells_of(SINCE)) == {*before, "tempme"} - {"dgl_linear"}


def test_one_search_serves_a_family(monkeypatch, tmp_path):
    """The rate itself is taken, also where the methods' defaults differ."""
    cells = [Cell("a", "vop"), Cell("b", "lora", rate_of="a"), Cell("c", "lora")]
    defaults = {"vop": 0.01, "lora": 0.04}

    def base(method):
        values = default_values(method)
        values["optimizer"]["learning_rate"] = defaults[method]
        return values

    searched, finals = [], []

    def run_once(config, folder, shared):
        rate = config.optimizer.learning_rate
        name = folder.path.parent.name
        (searched if config.epochs == 3 else finals).append((name, rate))
        sides = {f"R@{k}": 100 - rate for k in (1, 5, 10)}
        return {"validation": {"t2v": sides, "v2t": sides}}

    monkeypatch.setattr(module, "run_once", run_once)
    runs = object.__new__(StudyRuns)
    runs.cells, runs._base, runs._output, runs._shared = cells, base, tmp_path, None
    runs._seeds, runs._rates, runs._search_epochs = [0, 1], [0.5, 1.0], 3
    runs._found, runs._widen, runs._runs_new = {}, 0, True
    for cell in reversed(cells):
        runs._cell(cell)
    assert searched == [("c", 0.02), ("c", 0.04), ("a", 0.005), ("a", 0.01)]
    assert finals == [
        *(("c", 0.02),) * 2,
        *(("b", pytest.approx(0.005)),) * 2,
        *(("a", 0.005),) * 2,
    ]


@pytest.mark.parametrize(
    ("scores", "beyond"),
    [
        ({0.5: 1, 1: 2, 3: 3}, 9),
        ({3: 3, 0.5: 1, 1: 2}, 9),
        ({0.5: 3, 1: 2, 3: 1}, 0.25),
        ({0.5: 1, 1: 2, 3: 1}, None),
        ({1: 5}, None),
        ({1: -np.inf, 3: -np.inf}, None),
        ({1e-300: 5, 1: 0}, None),
        ({1e-300: 0, 1: 5}, None),
    ],
)
def test_a_search_goes_on_beyond_an_end(scores, beyond):
    assert next_rate(scores) == beyond


@pytest.mark.parametrize(
    ("widen", "tried"), [(0, [1, 3]), (1, [1, 3, 9]), (4, [1, 3, 9, 27])]
)
def test_it_goes_on_as_often_as_asked(widen, tried, monkeypatch):
    runs, seen = object.__new__(StudyRuns), []
    runs._found, runs._widen, runs._rates = {}, widen, [1, 3]

    def score(cell, rate):
        seen.append(rate)
        return {1: 1, 3: 2, 9: 3, 27: 0}[rate]

    monkeypatch.setattr(runs, "_score", score)
    assert runs._best_rate(Cell("a", "vop")) == min(tried[-1], 9)
    assert seen == tried


def test_calls_are_timed_by_turns():
    called, now = [], iter(range(1000))
    spent = {"slow": 3, "fast": 1}

    def call(name):
        called.append(name)
        for _ in range(spent[name] - 1):
            next(now)

    calls = {name: lambda name=name: call(name) for name in spent}
    assert time_by_turns(calls, lambda: next(now)) == spent
    assert called[:4] == ["slow", "fast"] * 2


@pytest.mark.slow
def test_work_is_that_of_the_program():
    """Against XLA's count, which has norms, softmax and activations as well."""
    size = SIZES["demo"]
    config = cell_config(Cell("vop", "vop"), default_values, 1.0, 0)
    model = DualEncoder(size, config.prompts, config.compute).on(jax.devices()[0])
    train, inference = count_work(model, config)
    shape = (4, config.num_frames, size.image_size, size.image_size, 3)
    lowered = jax.jit(model.apply).lower(
        abstract_variables(size, config.prompts),
        jax.ShapeDtypeStruct(shape, np.uint8),
        jax.ShapeDtypeStruct((4, min(32, size.context_length)), np.int32),
    )
    by_xla = lowered.cost_analysis()["flops"] / 4
    assert 0.75 * by_xla < inference < by_xla
    # The frozen weights get no gradient, which would be a third of the work.
    assert 1.5 * inference < train < 2.5 * inference


@pytest.mark.slow
def test_costs_are_relative_and_of_what_fits(base, tmp_path, monkeypatch):
    cells = [
        Cell("a", "vop"),
        Cell("b", "lora", {"renormalize_video": True}),
        Cell("broken", "vop", {"prompts.first_layer": 9}),
    ]
    study = Study("costs", lambda layers: cells, costs_of="a")
    monkeypatch.setitem(STUDIES, "costs", study)
    runs = StudyRuns("costs", base, tmp_path, [0], [1.0])
    runs.measure_costs()
    one, other = runs.costs["a"], runs.costs["b"]
    assert list(runs.costs) == ["a", "b"]
    assert one["train_flops"] == one["inference_flops"] == 1
    assert 1 < other["inference_flops"] < other["train_flops"] < 1.2
    ratio = other["train_gflop"] / one["train_gflop"]
    assert other["train_flops"] == pytest.approx(ratio)
    assert [x["renormalized"] for x in (one, other)] == [False, True]
    assert all(x["videos_per_second"] > 1 for x in (one, other))


def fake_run(r1, *, intervals=True, method="vop"):
    way = {"R@1": r1, "R@5": r1 + 20, "R@10": r1 + 30, "MdR": 2.0, "MnR": 3.25}
    run = {
        "method": method,
        "t2v": way,
        "v2t": way,
        "learning_rate": 0.01,
        "trainable_parameters": 3584,
        "seconds_per_epoch": 2.0,
    }
    ends = {"R@1": [r1 - 5, r1 + 7]}
    return run | ({"intervals": {"t2v": ends, "v2t": ends}} if intervals else {})


COST = {
    "train_gflop": 2.0,
    "inference_gflop": 1.0,
    "train_flops": 1.004,
    "inference_flops": 1.003,
    "videos_per_second": 321.4,
    "renormalized": True,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Of three methods, the first of which has a run of an older version."""
    folder, dots = tmp_path_factory.mktemp("page"), {}
    patch = pytest.MonkeyPatch()

    def dot_chart(title, x, lines):
        dots.update(lines)
        return charts.dot_chart(title, x, lines)

    patch.setattr(page_module, "dot_chart", dot_chart)
    cells = cells_of(SINCE)
    finished = {
        "vop": [fake_run(30.0, intervals=False), fake_run(32.0)],
        "lora": [fake_run(37.0)],
        "discovla": [fake_run(38.0)],
    }
    costs = dict.fromkeys(finished, COST)
    write_csv(folder / "results.csv", finished, costs)
    write_study_page(
        folder / "index.html",
        study=SINCE,
        cells=list(cells.values()),
        untuned={"zero_shot": fake_run(20.0, intervals=False)},
        finished=finished,
        failed={},
        dataset="demo",
        epochs=24,
        searched=True,
        costs=costs,
    )
    patch.undo()
    return folder, dots


def rows_of(text):
    """The cells of each row of a page's tables, by the row's name and by table."""
    return [
        {
            cells[0]: cells[1:]
            for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)
            for cells in [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        }
        for table in re.findall(r"<table>(.*?)</table>", text, re.S)
    ]


def test_the_page_compares_metrics_and_costs(page):
    text = (page[0] / "index.html").read_text()
    metrics, costs = rows_of(text)
    columns = metrics[""]
    vop = dict(zip(columns, metrics["vop"], strict=True))
    assert vop["t2v R@1"] == "31.0 ± 1.4"
    assert vop["v2t MnR"] == "3.2 ± 0.0"
    # Of the one run that has an interval.
    assert vop["t2v R@1, 95%"] == "27.0 to 39.0"
    assert vop["printed t2v R@1"] == "39.6"
    assert metrics["lora"][-6:] == [""] * 6
    assert metrics["discovla"][-6:] == ["50.5", "", "", "", "", "B/16"]
    assert costs["lora"] == [
        *("3,584", "2", "1.004", "1", "1.003", "321", "normalized again"),
    ]
    family = [name for name, cell in cells_of(SINCE).items() if cell.rate_of]
    assert f"({', '.join(family)} take that of another row" in text
    # Dots, parameters, FLOPs.
    assert text.count("<svg") == 3


def test_another_backbone_is_not_among_the_printed_dots(page):
    ours, printed = page[1].values()
    assert set(ours) == {"vop", "lora", "discovla"}
    assert set(printed) == {"vop"}


def test_the_csv_has_intervals_and_costs(page):
    with (page[0] / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["t2v_R@1_low"] for line in lines] == ["", "27.0", "32.0", "33.0"]
    assert {line["videos_per_second"] for line in lines} == {"321.4"}


@pytest.mark.parametrize("counted", [True, False])
def test_ticks_of_a_count_are_whole(counted):
    lines = {"": Line([1, 2], [100, 200])}
    picture = line_chart("depth", "layers", "R@1", lines, counted=counted)
    ticks = re.findall(r"<!-- (\d+\.\d+) -->", picture)
    assert bool(ticks) != counted


def test_every_series_says_what_varies():
    for study in STUDIES.values():
        series = {cell.series for cell in study.cells(4)} - {""}
        assert series == set(study.axes)


def test_a_study_without_costs_measures_none():
    runs = object.__new__(StudyRuns)
    runs.study, runs.cells, runs.costs = (
        Study("x", lambda _: []),
        [Cell("a", "vop")],
        {},
    )
    runs.measure_costs()
    assert runs.costs == {}
