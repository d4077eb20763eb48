"""A study's CSV file and page, which compares our metrics with the paper's."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vop_jax.pages.charts import Line, dot_chart, line_chart, scatter_chart
from vop_jax.pages.render import render
from vop_jax.runtime.files import write_atomically
from vop_jax.scoring.event_order import ORDERS, both_ways
from vop_jax.study.cells import PATCHES, Cell, Published, Study
from vop_jax.study.costs import Costs

_METRICS = ("R@1", "R@5", "R@10", "MdR", "MnR")
_WAYS = ("t2v", "v2t")
_RECALLS = (("t2v", "R@1"), ("t2v", "R@5"), ("t2v", "R@10"), ("v2t", "R@1"))
# Of a study that compares costs, where recalls differ less.
_ALL = tuple((way, key) for way in _WAYS for key in _METRICS)
# Key of `Costs` -> column, and how its numbers are written.
_COSTS = {
    "train_gflop": ("train GFLOP", ".4g"),
    "train_flops": ("relative", ".3f"),
    "inference_gflop": ("inference GFLOP", ".4g"),
    "inference_flops": ("relative", ".3f"),
    "videos_per_second": ("videos/s", ",.0f"),
}
Runs = Mapping[str, Sequence[dict[str, Any]]]


def write_csv(
    path: Path, finished: Runs, costs: Mapping[str, Costs] | None = None
) -> None:
    """Writes one row for each cell and seed.

    Args:
        path: the file.
        finished: cell -> the results of its runs.
        costs: of the cells, if the study compares them.
    """
    lines = []
    for name, runs in finished.items():
        for run in runs:
            line = {"cell": name} | {
                key: run.get(key, "")
                for key in (
                    "method",
                    "seed",
                    "epochs",
                    "learning_rate",
                    "trainable_parameters",
                    "seconds_per_epoch",
                )
            }
            for way in _WAYS:
                line |= {f"{way}_{key}": x for key, x in run[way].items()}
                for key, ends in run.get("intervals", {}).get(way, {}).items():
                    low, high = (f"{way}_{key}_{end}" for end in ("low", "high"))
                    line |= dict(zip((low, high), ends, strict=True))
            if not run["trainable_parameters"]:
                line |= {"epochs": "", "learning_rate": ""}
            for order in ORDERS:
                if order in run:
                    line[order] = both_ways(run[order])
                    families = run[order]["families"].items()
                    line |= {f"{order}_{family}": x for family, x in families}
            line |= (costs or {}).get(name, {})
            lines.append(line)
    columns = list(dict.fromkeys(key for line in lines for key in line))
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(path, buffer.getvalue())


def _spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.1f}"
    return f"{mean} \u00b1 {np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def _interval(runs: Sequence[dict[str, Any]], way: str) -> str:
    """The interval of R@1, its ends averaged over the runs that have one."""
    found = [run["intervals"][way]["R@1"] for run in runs if "intervals" in run]
    return " to ".join(f"{end:.1f}" for end in np.mean(found, axis=0)) if found else ""


def _printed_columns(cells: Sequence[Cell]) -> list[str]:
    """The columns of printed metrics; empty if no cell has any."""
    known = [cell.published for cell in cells if cell.published]
    if not known:
        return []
    columns = ["printed t2v R@1", "R@5", "R@10", "v2t R@1"]
    columns += ["parameters, M"] if any(x.millions for x in known) else []
    return columns + ["CLIP"] * any(x.backbone != PATCHES for x in known)


def _printed(published: Published | None, columns: Sequence[str]) -> list[str]:
    """What is printed of a method, in the columns of `_printed_columns`."""
    if published is None:
        return [""] * len(columns)
    numbers = [f"{x:.1f}" if x else "" for x in (*published.t2v, published.v2t_r1)]
    if "parameters, M" in columns:
        numbers.append(f"{published.millions:.2f}" if published.millions else "")
    return numbers + [published.backbone] * ("CLIP" in columns)


def _rows(
    study: Study,
    cells: Sequence[Cell],
    untuned: Mapping[str, dict[str, Any]],
    finished: Runs,
) -> tuple[list[str], list[list[str]]]:
    printed = _printed_columns(cells)
    orders = [x for x in ORDERS if x in next(iter(untuned.values()))]
    metrics = _ALL if study.costs_of else _RECALLS
    intervals = any("intervals" in run for runs in finished.values() for run in runs)
    columns = ["", "learning rate", "parameters", "s/epoch"]
    columns += [" ".join(x) for x in metrics]
    columns += [f"{way} R@1, 95%" for way in _WAYS] if intervals else []
    columns += [x.replace("_", " ") for x in orders] + printed
    rows = []
    tuned = [
        (x.name, finished[x.name], x.published) for x in cells if x.name in finished
    ]
    alone = [
        (f"{name}, untuned", [x], None)
        for name, x in untuned.items()
        # A study of all methods has zero_shot as one of its cells.
        if name not in finished
    ]
    for name, runs, paper in alone + tuned:
        first = runs[0]
        trained = first["trainable_parameters"]
        row = [
            name,
            f"{first['learning_rate']:.2g}" if trained else "",
            f"{trained:,}",
            f"{np.mean([x['seconds_per_epoch'] for x in runs]):.1f}" if trained else "",
        ]
        row += [_spread([x[way][key] for x in runs]) for way, key in metrics]
        row += [_interval(runs, way) for way in _WAYS] if intervals else []
        row += [_spread([both_ways(x[order]) for x in runs]) for order in orders]
        rows.append(row + _printed(paper, printed))
    return columns, rows


def _cost_table(
    cells: Sequence[Cell], finished: Runs, costs: Mapping[str, Costs]
) -> dict[str, Any]:
    """The table of what each cell costs; empty if that was not measured."""
    if not costs:
        return {}
    rows = []
    for cell in cells:
        if cell.name not in costs:
            continue
        own = costs[cell.name]
        runs = finished.get(cell.name)
        row = [cell.name, f"{runs[0]['trainable_parameters']:,}" if runs else ""]
        row += [format(own[key], form) for key, (_, form) in _COSTS.items()]
        rows.append([*row, "normalized again" if own["renormalized"] else "as it is"])
    columns = [column for column, _ in _COSTS.values()]
    return {
        "columns": ["", "parameters", *columns, "mean over frames"],
        "rows": rows,
    }


def _point(runs: Sequence[dict[str, Any]]) -> tuple[float, float]:
    values = [run["t2v"]["R@1"] for run in runs]
    return float(np.mean(values)), float(np.std(values, ddof=len(values) > 1))


def _charts(
    study: Study,
    dataset: str,
    cells: Sequence[Cell],
    finished: Runs,
    costs: Mapping[str, Costs],
) -> list[tuple[str, str]]:
    """(title, SVG): a curve for each series, or a dot chart for a table, and costs."""
    title = study.title
    done = [cell for cell in cells if cell.name in finished]
    charts = []
    for series in dict.fromkeys(cell.series for cell in done if cell.series):
        own = [cell for cell in done if cell.series == series]
        means, deviations = zip(*(_point(finished[x.name]) for x in own), strict=True)
        line = Line([x.x for x in own], means, deviations)
        axis = study.axes.get(series, series)
        picture = line_chart(
            *(series, axis, "t2v R@1, percent", {dataset: line}),
            large=True,
            counted=True,
        )
        charts.append((series, picture))
    plain = [cell for cell in done if not cell.series]
    if plain:
        ours = {}
        for cell in plain:
            mean, deviation = _point(finished[cell.name])
            ours[cell.name] = Line([0], [mean], [deviation])
        lines = {dataset: ours}
        paper = {
            cell.name: Line([0], [cell.published.t2v[0]])
            for cell in plain
            if cell.published
            and cell.published.t2v[0] is not None
            # Another backbone is not one scale with the others.
            and cell.published.backbone == PATCHES
        }
        if paper:
            lines["printed, MSR-VTT-9k"] = paper
        picture = dot_chart(title, "t2v R@1, percent", lines)
        charts.append((title, picture))
    return charts + _cost_charts(done, finished, costs)


def _cost_charts(
    done: Sequence[Cell], finished: Runs, costs: Mapping[str, Costs]
) -> list[tuple[str, str]]:
    """R@1 against what a cell trains and what its inference takes."""
    if not costs:
        return []
    trained, work = {}, {}
    for cell in done:
        runs = finished[cell.name]
        mean, deviation = _point(runs)
        trained[cell.name] = Line(
            [runs[0]["trainable_parameters"]], [mean], [deviation]
        )
        if cell.name in costs:
            flops = costs[cell.name]["inference_gflop"]
            work[cell.name] = Line([flops], [mean], [deviation])
    percent = "t2v R@1, percent"
    by_trained, by_work = "R@1 and trained parameters", "R@1 and inference FLOPs"
    unit, axis = "GFLOP of a video and a caption", "trained parameters"
    return [
        (by_trained, scatter_chart(by_trained, axis, percent, trained, log=True)),
        (by_work, scatter_chart(by_work, unit, percent, work)),
    ]


def _order_tables(
    untuned: Mapping[str, dict[str, Any]], finished: Runs
) -> list[dict[str, Any]]:
    """Tables of pair accuracy by family of events, if the data set has pairs."""
    everything = {k: [x] for k, x in untuned.items()} | dict(finished)
    tables = []
    for order, title in ORDERS.items():
        having = {k: runs for k, runs in everything.items() if order in runs[0]}
        if not having:
            continue
        families = sorted(next(iter(having.values()))[0][order]["families"])
        rows = []
        for name, runs in having.items():
            mean = np.mean([both_ways(run[order]) for run in runs])
            own = [
                np.mean([run[order]["families"][family] for run in runs])
                for family in families
            ]
            rows.append((name, [mean, *own]))
        tables.append({"title": title, "families": families, "rows": rows})
    return tables


def write_study_page(
    path: Path,
    *,
    study: Study,
    cells: Sequence[Cell],
    untuned: Mapping[str, dict[str, Any]],
    finished: Runs,
    failed: Mapping[str, str],
    dataset: str,
    epochs: int,
    searched: bool,
    costs: Mapping[str, Costs] | None = None,
) -> None:
    """Writes the page of all cells that are finished so far.

    Args:
        path: the file.
        study: the study.
        cells: all of its cells.
        untuned: name -> metrics of CLIP without tuning.
        finished: cell -> the results of its runs, one per seed.
        failed: cell -> the error.
        dataset: the data set of the runs.
        epochs: of each run.
        searched: whether learning rates were chosen, or those of the methods taken.
        costs: of the cells, if the study compares them.
    """
    columns, rows = _rows(study, cells, untuned, finished)
    costs = costs or {}
    left = [x.name for x in cells if x.name not in finished and x.name not in failed]
    page = render(
        "study.html",
        study=study,
        dataset=dataset,
        epochs=epochs,
        searched=searched,
        published=any(cell.published for cell in cells),
        intervals=any(x.endswith("95%") for x in columns),
        shared=", ".join(cell.name for cell in cells if cell.rate_of),
        charts=_charts(study, dataset, cells, finished, costs),
        costs=_cost_table(cells, finished, costs),
        columns=columns,
        rows=rows,
        missing=left,
        orders=_order_tables(untuned, finished),
        failed=failed,
    )
    write_atomically(path, page)
