"""Charts as SVG text."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Colour of text and axes: a grey that is legible on light and dark backgrounds.
_INK = "#808080"


_COLOURS = ("#2f6f8f", "#b8622b", "#6b7280")


class Line(NamedTuple):
    """One line of a chart: points, and their standard deviations if known."""

    x: Sequence[float]
    y: Sequence[float]
    deviation: Sequence[float] | None = None


def _axes(title: str, height: float = 2.5) -> tuple[Any, Any]:
    # Imported late: matplotlib is slow to import and only pages need it.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, loc="left", color=_INK)
    axes.tick_params(labelsize=8, colors=_INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    axes.grid(alpha=0.25)
    return figure, axes


def _svg(figure: Any, axes: Any, lines: int) -> str:
    if lines > 1:
        legend = axes.legend(fontsize=8, frameon=False)
        for text in legend.get_texts():
            text.set_color(_INK)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    picture = buffer.getvalue()
    return picture[picture.index("<svg") :]


def line_chart(title: str, x: str, y: str, lines: Mapping[str, Line]) -> str:
    """A small line chart as inline SVG; `x` and `y` label the axes."""
    figure, axes = _axes(title)
    for (name, line), colour in zip(lines.items(), _COLOURS, strict=False):
        axes.plot(line.x, line.y, label=name, color=colour, linewidth=1.6)
        if line.deviation is not None:
            axes.errorbar(
                line.x, line.y, line.deviation, fmt="o", color=colour, markersize=3
            )
    axes.set_xlabel(x, fontsize=8, color=_INK)
    axes.set_ylabel(y, fontsize=8, color=_INK)
    axes.margins(x=0.01)
    return _svg(figure, axes, len(lines))


def dot_chart(title: str, x: str, lines: Mapping[str, Mapping[str, Line]]) -> str:
    """A dot chart of named rows as inline SVG, one colour for each of `lines`.

    Args:
        title: above the chart.
        x: label of the axis.
        lines: series -> row -> a line whose `y` is a single value.
    """
    rows = list(dict.fromkeys(row for line in lines.values() for row in line))
    figure, axes = _axes(title, 0.9 + 0.22 * len(rows))
    for (name, line), colour in zip(lines.items(), _COLOURS, strict=False):
        axes.errorbar(
            [point.y[0] for point in line.values()],
            [rows.index(row) for row in line],
            xerr=[
                point.deviation[0] if point.deviation else 0 for point in line.values()
            ],
            fmt="o",
            label=name,
            color=colour,
            markersize=4,
        )
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel(x, fontsize=8, color=_INK)
    return _svg(figure, axes, len(lines))
