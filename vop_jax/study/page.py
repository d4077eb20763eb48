"""A study's CSV file and page, which compares our metrics with the paper's."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vop_jax.pages.charts import Line, dot_chart, line_chart
from vop_jax.pages.render import render
from vop_jax.runtime.files import write_atomically
from vop_jax.scoring.event_order import ORDERS, both_ways
from vop_jax.study.cells import Cell, Study

_RECALLS = (("t2v", "R@1"), ("t2v", "R@5"), ("t2v", "R@10"), ("v2t", "R@1"))
Runs = Mapping[str, Sequence[dict[str, Any]]]


def write_csv(path: Path, finished: Runs) -> None:
    """Writes one row for each cell and seed."""
    lines = []
    for name, runs in finished.items():
        for run in runs:
            line = {"cell": name} | {
                key: run.get(key, "")
                for key in (
                    "method",
                    "seed",
                    "learning_rate",
                    "trainable_parameters",
                    "seconds_per_epoch",
                )
            }
            for way in ("t2v", "v2t"):
                line |= {f"{way}_{key}": x for key, x in run[way].items()}
            for order in ORDERS:
                if order in run:
                    line[order] = both_ways(run[order])
                    families = run[order]["families"].items()
                    line |= {f"{order}_{family}": x for family, x in families}
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


def _rows(
    cells: Sequence[Cell], untuned: Mapping[str, dict[str, Any]], finished: Runs
) -> tuple[list[str], list[list[str]]]:
    published = any(cell.published for cell in cells)
    orders = [x for x in ORDERS if x in next(iter(untuned.values()))]
    columns = ["", "learning rate", "parameters", "s/epoch"]
    columns += [" ".join(x) for x in _RECALLS] + [x.replace("_", " ") for x in orders]
    columns += ["paper t2v R@1", "R@5", "R@10", "v2t R@1"] if published else []
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
        row += [_spread([x[way][key] for x in runs]) for way, key in _RECALLS]
        row += [_spread([both_ways(x[order]) for x in runs]) for order in orders]
        if published:
            printed = [*paper.t2v, paper.v2t_r1] if paper else [None] * 4
            row += ["" if x is None else f"{x:.1f}" for x in printed]
        rows.append(row)
    return columns, rows


def _point(runs: Sequence[dict[str, Any]]) -> tuple[float, float]:
    values = [run["t2v"]["R@1"] for run in runs]
    return float(np.mean(values)), float(np.std(values, ddof=len(values) > 1))


def _charts(
    title: str, dataset: str, cells: Sequence[Cell], finished: Runs
) -> list[tuple[str, str]]:
    """(title, SVG): a curve for each series, or a dot chart for a table."""
    done = [cell for cell in cells if cell.name in finished]
    charts = []
    for series in dict.fromkeys(cell.series for cell in done if cell.series):
        own = [cell for cell in done if cell.series == series]
        means, deviations = zip(*(_point(finished[x.name]) for x in own), strict=True)
        line = Line([x.x for x in own], means, deviations)
        picture = line_chart(series, series, "t2v R@1", {dataset: line})
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
        }
        if paper:
            lines["paper, MSR-VTT-9k"] = paper
        charts.append((title, dot_chart(title, "t2v R@1, percent", lines)))
    return charts


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
    """
    columns, rows = _rows(cells, untuned, finished)
    left = [x.name for x in cells if x.name not in finished and x.name not in failed]
    page = render(
        "study.html",
        study=study,
        dataset=dataset,
        published=any(cell.published for cell in cells),
        charts=_charts(study.title, dataset, cells, finished),
        columns=columns,
        rows=rows,
        missing=left,
        orders=_order_tables(untuned, finished),
        failed=failed,
    )
    write_atomically(path, page)
