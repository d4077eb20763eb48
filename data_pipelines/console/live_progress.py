"""The progress line that a terminal redraws in place, by `rich`."""

import sys
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Task as RichTask
from rich.text import Text

from data_pipelines.console.pace import Pace


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: RichTask) -> Text:
        rate = task.fields["pace"].rate()
        return Text(f"{rate:,.1f} {task.fields['unit']}/s" if rate else "")


class _Left(ProgressColumn):
    """The time that is left."""

    def render(self, task: RichTask) -> Text:
        left = task.fields["pace"].seconds_left()
        return Text("-:--:--" if left is None else str(timedelta(seconds=round(left))))


class LiveProgress:
    """One task's line on standard error; what is said meanwhile appears above it.

    Args:
        name: of the task.
        pace: of the task; what is done is added to it elsewhere.
        unit: what is counted.
    """

    def __init__(self, name: str, pace: Pace, unit: str):
        self._line = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            _Rate(),
            TextColumn("{task.fields[shown]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            _Left(),
            console=Console(file=sys.stderr),
            # Rich would redirect standard output to standard error; that is wanted
            # only if both are the same terminal.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._line.add_task(
            name, total=pace.total, unit=unit, pace=pace, shown=""
        )
        self._line.start()

    def advance(self, count: float, shown: str) -> None:
        """Adds finished units, with a text to show beside them."""
        self._line.update(self._task, advance=count, shown=shown)

    def stop(self) -> None:
        """Draws the line for the last time and gives the terminal back."""
        self._line.stop()
