"""`report/index.html`: training curves, results and retrieved examples in one file."""

import base64
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines.feeding.split import Split
from vop_jax.pages.charts import Line, line_chart
from vop_jax.pages.render import render
from vop_jax.runtime.files import write_atomically
from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.scoring.chance import remark_on
from vop_jax.scoring.event_order import ORDERS
from vop_jax.scoring.similarity import Similarity

EXAMPLES = 12
# Columns of the table of results: (direction, metric, whether higher is better).
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
    """A query, the video ranked first, and the correct video."""

    query: str
    rank: int
    found: Strip
    right: Strip


def examples(
    similarity: Float[np.ndarray, "C V"] | Similarity,
    split: Split,
    count: int = EXAMPLES,
) -> list[Example]:
    """Queries evenly spaced over a split, whether found or missed."""
    chosen = np.linspace(0, len(split.captions) - 1, count).round().astype(int)
    shown = []
    for query in np.unique(chosen):
        row, right = similarity[query], int(split.video_of_caption[query])
        # Of equal similarities the correct video is shown, as `ties=mean` nearly does.
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


def _curves(lines: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(title, SVG) of every curve that the logged metrics allow."""

    def series(*names: str):
        found = {}
        for name in names:
            points = [(x["step"], x[name]) for x in lines if x.get(name) is not None]
            if points:
                label = name.removeprefix("validation_").replace("_", " ")
                found[label] = Line(*zip(*points, strict=True))
        return found

    wanted = (
        ("Training loss", "nats", ("loss",)),
        (
            "Recall at 1 on the validation split",
            "percent",
            ("validation_t2v_R@1", "validation_v2t_R@1"),
        ),
        (
            "Order on the validation split; 50 is chance",
            "percent",
            ("validation_twins", "validation_same_end"),
        ),
        ("Learning rate", "", ("learning_rate",)),
        ("Speed", "videos/s", ("videos_per_second",)),
        ("Waiting for data", "fraction of time", ("data_wait_fraction",)),
        ("Gradient norm", "", ("gradient_norm",)),
    )
    return [
        (title, line_chart(title, "step", unit, found))
        for title, unit, names in wanted
        if (found := series(*names))
    ]


def _rows(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table of results, with the best of each column marked."""
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
    """Tables of pair accuracy by family of events, if the data set has pairs."""
    tables = []
    for key, title in ORDERS.items():
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
        folder: of the run; the curves come from its `metrics.jsonl`.
        config: the configuration as JSON values.
        results: name of a model -> its metrics as in `results.json`, the tuned model
            last.
        trained: (path, shape, parameter count) of each trained parameter.
        shown: retrieved examples of the tuned model.
    """
    final = list(results.values())[-1]
    page = render(
        "report.html",
        config=config,
        config_text=json.dumps(config, indent=1),
        results=results,
        rows=_rows(results),
        columns=_COLUMNS,
        orders=_orders(results),
        curves=_curves(list(read_metrics(folder))),
        trained=trained,
        examples=shown,
        final=final,
        remark=remark_on(final["videos"]),
        first=next(iter(results.values())),
    )
    write_atomically(folder.report, page)
