"""Charts as SVG text."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Colour of text and axes: a grey that is legible on light and dark backgrounds.
_INK = "#808080"


_COLOURS = ("#2f6f8f", "#b8622b", "#6b7280")
# Inches of a chart beside others, and of one as wide as its page.
_SMALL, _LARGE = (4.6, 2.5), (9.0, 4.8)
# Of points that have a legend each: shapes tell what ten colours do not.
_MARKERS = "osD^vP*X<>h8pd"


class Line(NamedTuple):
    """One line of a chart: points, and their standard deviations if known."""

    x: Sequence[float]
    y: Sequence[float]
    deviation: Sequence[float] | None = None


def _axes(title: str, size: tuple[float, float] = _SMALL) -> tuple[Any, Any]:
    # Imported late: matplotlib is slow to import and only pages need it.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
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
        axes.legend(fontsize=8, frameon=False)
    for legend in (axes.get_legend(), *figure.legends):
        for text in legend.get_texts() if legend else ():
            text.set_color(_INK)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    picture = buffer.getvalue()
    return picture[picture.index("<svg") :]


def line_chart(
    title: str,
    x: str,
    y: str,
    lines: Mapping[str, Line],
    *,
    large: bool = False,
    counted: bool = False,
) -> str:
    """A line chart as inline SVG.

    Args:
        title: above the chart.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        lines: name -> line.
        large: whether it is as wide as its page.
        counted: whether `x` is a count, whose ticks are whole numbers.
    """
    figure, axes = _axes(title, _LARGE if large else _SMALL)
    for (name, line), colour in zip(lines.items(), _COLOURS, strict=False):
        axes.plot(line.x, line.y, label=name, color=colour, linewidth=1.6)
        if line.deviation is not None:
            axes.errorbar(
                line.x, line.y, line.deviation, fmt="o", color=colour, markersize=3
            )
    axes.set_xlabel(x, fontsize=8, color=_INK)
    axes.set_ylabel(y, fontsize=8, color=_INK)
    axes.margins(x=0.01)
    if counted:
        _whole_ticks(axes)
    return _svg(figure, axes, len(lines))


def _whole_ticks(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def scatter_chart(
    title: str, x: str, y: str, points: Mapping[str, Line], *, log: bool = False
) -> str:
    """A large chart of named points as inline SVG, with a legend beside it.

    Args:
        title: above the chart.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        points: name -> a line of one point.
        log: whether the horizontal axis is logarithmic.
    """
    figure, axes = _axes(title, _LARGE)
    for place, (name, point) in enumerate(points.items()):
        axes.errorbar(
            *(point.x, point.y, point.deviation),
            fmt=_MARKERS[place % len(_MARKERS)],
            color=f"C{place % 10}",
            markersize=7,
            capsize=2,
            label=name,
        )
    if log:
        axes.set_xscale("log")
    axes.set_xlabel(x, fontsize=9, color=_INK)
    axes.set_ylabel(y, fontsize=9, color=_INK)
    axes.margins(0.06)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    return _svg(figure, axes, 0)


def dot_chart(title: str, x: str, lines: Mapping[str, Mapping[str, Line]]) -> str:
    """A wide dot chart of named rows as inline SVG, one colour for each of `lines`.

    Args:
        title: above the chart.
        x: label of the axis.
        lines: series -> row -> a line whose `y` is a single value.
    """
    rows = list(dict.fromkeys(row for line in lines.values() for row in line))
    figure, axes = _axes(title, (_LARGE[0], 1 + 0.24 * len(rows)))
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
    # Beside the axes, where it covers no row.
    if len(lines) > 1:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return _svg(figure, axes, 0)
