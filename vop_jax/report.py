"""`report/index.html`: curves, results, retrieved examples, in one static file."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jaxtyping import Float

from data_pipelines.feed import Split
from vop_jax.run_folder import RunFolder, read_metrics, write_atomically

TEMPLATES = Path(__file__).parent / "templates"
EXAMPLES = 12
# What the table of results shows: (way, metric, whether more is better).
_COLUMNS = tuple(
    (way, name, name.startswith("R@"))
    for way in ("t2v", "v2t")
    for name in ("R@1", "R@5", "R@10", "MdR", "MnR")
)


class Strip(NamedTuple):
    """One video as a filmstrip: its id, its frames as data URIs, its similarity."""

    video_id: str
    frames: list[str]
    similarity: float


class Example(NamedTuple):
    """A query, the video ranked first and the right one."""

    query: str
    rank: int
    found: Strip
    right: Strip


def examples(
    similarity: Float[np.ndarray, "C V"], split: Split, count: int = EXAMPLES
) -> list[Example]:
    """Queries evenly spaced over a split, hits and misses as they come."""
    chosen = np.linspace(0, len(split.captions) - 1, count).round().astype(int)
    shown = []
    for query in np.unique(chosen):
        row, right = similarity[query], int(split.video_of_caption[query])
        # Among equals the right one first, as the figures count it nearly so.
        first = int(np.argmax(row))
        first = right if row[first] == row[right] else first
        shown.append(
            Example(
                split.captions[query],
                1 + int((row > row[right]).sum()),
                _strip(split, first, row),
                _strip(split, right, row),
            )
        )
    return shown


def _strip(split: Split, video: int, row: Float[np.ndarray, "V"]) -> Strip:
    frames = [
        "data:image/jpeg;base64," + base64.b64encode(frame).decode()
        for frame in split.frames[video]
    ]
    return Strip(split.video_ids[video], frames, float(row[video]))


def _curve(
    title: str,
    unit: str,
    series: dict[str, tuple[Sequence[float], Sequence[float]]],
) -> str:
    """A small line chart as inline SVG whose text and axes take the page's colours."""
    # Imported late: matplotlib takes a moment and only this page needs it.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.5), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    colours = ("#2f6f8f", "#b8622b", "#6b7280")
    for (name, (x, y)), colour in zip(series.items(), colours, strict=False):
        axes.plot(x, y, label=name, color=colour, linewidth=1.6)
    axes.set_title(title, fontsize=10, loc="left", color="#808080")
    axes.set_xlabel("step", fontsize=8, color="#808080")
    axes.set_ylabel(unit, fontsize=8, color="#808080")
    axes.tick_params(labelsize=8, colors="#808080")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#808080")
    axes.grid(alpha=0.25)
    axes.margins(x=0.01)
    if len(series) > 1:
        legend = axes.legend(fontsize=8, frameon=False)
        for text in legend.get_texts():
            text.set_color("#808080")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    picture = buffer.getvalue()
    return picture[picture.index("<svg") :]


def _curves(lines: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(what it shows, SVG) of every curve the metrics have."""

    def series(*names: str):
        found = {}
        for name in names:
            points = [(x["step"], x[name]) for x in lines if x.get(name) is not None]
            if points:
                label = name.removeprefix("validation_").replace("_", " ")
                found[label] = tuple(zip(*points, strict=True))
        return found

    wanted = (
        ("Training loss", "nats", ("loss",)),
        (
            "Recall at 1 on the validation split",
            "percent",
            ("validation_t2v_R@1", "validation_v2t_R@1"),
        ),
        ("Learning rate", "", ("learning_rate",)),
        ("Speed", "videos/s", ("videos_per_second",)),
        ("Waiting for data", "share of time", ("data_wait_fraction",)),
        ("Gradient norm", "", ("gradient_norm",)),
    )
    return [
        (title, _curve(title, unit, found))
        for title, unit, names in wanted
        if (found := series(*names))
    ]


def _rows(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table of results, the best of each column marked."""
    rows = []
    for name, figures in results.items():
        cells = []
        for way, metric, more in _COLUMNS:
            column = [other[way][metric] for other in results.values()]
            value = figures[way][metric]
            best = value == (max(column) if more else min(column))
            cells.append({"value": f"{value:.1f}", "best": best and len(column) > 1})
        rows.append(
            {"name": name, "trained": figures["trainable_parameters"], "cells": cells}
        )
    return rows


def _orders(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Tables of pair accuracies by family of events, where the data set has them."""
    tables = []
    for key, title in (
        ("twins", "A clip against its time-reversed twin"),
        ("same_end", "A clip against one that differs only in how it got there"),
    ):
        having = {name: x[key] for name, x in results.items() if key in x}
        if having:
            families = sorted(next(iter(having.values()))["families"])
            rows = [
                (
                    name,
                    [x["t2v"], x["v2t"], *(x["families"][f] for f in families)],
                )
                for name, x in having.items()
            ]
            tables.append({"title": title, "families": families, "rows": rows})
    return tables


def write_report(
    folder: RunFolder,
    *,
    config: dict[str, Any],
    results: dict[str, dict[str, Any]],
    trained: Sequence[tuple[str, tuple[int, ...], int]],
    shown: Sequence[Example],
) -> None:
    """Writes the page.

    Args:
        folder: the run's; its `metrics.jsonl` gives the curves.
        config: the configuration as JSON values.
        results: name of a model -> what `results.json` would hold of it, the tuned
            model last.
        trained: (path, shape, count) of what trained.
        shown: retrieved examples of the tuned model.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html").render(
        config=config,
        config_text=json.dumps(config, indent=1),
        results=results,
        rows=_rows(results),
        columns=_COLUMNS,
        orders=_orders(results),
        curves=_curves(list(read_metrics(folder))),
        trained=trained,
        examples=shown,
        final=list(results.values())[-1],
        first=next(iter(results.values())),
    )
    write_atomically(folder.report, page)
