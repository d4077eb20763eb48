"""What a person at the terminal sees: tables, one progress line, quiet libraries.

Results go to the standard output, progress to the standard error. Off process 0 nothing
is printed.
"""

import contextlib
import io
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import absl.logging
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as RichTask
from rich.table import Table
from rich.text import Text

# Seconds between two lines of progress where the line cannot be redrawn.
_LINE_INTERVAL = 10.0
# Wider than any table: rich would cut cells off to make a table fit, and a figure that
# wraps can still be read.
_TABLE_WIDTH = 10_000

_is_main = True


def set_main_process(is_main: bool) -> None:
    """Silences this process unless it is the main one."""
    global _is_main
    _is_main = is_main


def quiet_libraries() -> None:
    """Keeps libraries' notices off the terminal; call before they are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Without torch, transformers says on every import what it cannot do.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for name in ("tensorflow", "orbax", "transformers", "jax", "etils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # absl's own level, which parsing its flags sets anew from the flag.
    absl.logging.set_verbosity(absl.logging.ERROR)


def say(text: str) -> None:
    """Prints one line to the standard output."""
    if _is_main:
        print(text, flush=True)


def warn(text: str) -> None:
    """Prints one line of warning to the standard error."""
    if _is_main:
        print(f"warning: {text}", file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table; all columns but the first are numbers, set to the right."""
    # Text, because rich reads square brackets in a plain string as its markup.
    drawn = Table(title=Text(title), title_justify="left", title_style="bold", box=None)
    for i, column in enumerate(columns):
        justify = "right" if i else "left"
        drawn.add_column(Text(str(column)), justify=justify, no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    # Drawn aside and then said, so that a progress line below is moved out of the way.
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=_TABLE_WIDTH, force_terminal=sys.stdout.isatty()
    )
    console.print(drawn)
    say(buffer.getvalue().rstrip("\n"))


def _clock(seconds: float) -> str:
    """Seconds as `9 s`, `1:02` or `1:00:02`."""
    whole = round(max(seconds, 0))
    minutes, left = divmod(whole, 60)
    if not minutes:
        return f"{left} s"
    if minutes < 60:
        return f"{minutes}:{left:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}"


class _Rate(ProgressColumn):
    """Units per second, from the whole of the work so far."""

    def render(self, task: RichTask) -> Text:
        rate = task.completed / task.elapsed if task.elapsed else 0
        return Text(f"{rate:,.1f} {task.fields['unit']}/s" if rate else "")


class Bar:
    """A running piece of work; `advance` moves it on."""

    def __init__(self, name: str, total: int, unit: str):
        self._name, self._total, self._unit = name, total, unit
        self._done, self._since = 0.0, time.monotonic()
        self._printed = self._since
        self._fields: dict[str, Any] = {}
        self._rich: Progress | None = None
        if _is_main and sys.stderr.isatty():
            self._rich = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                _Rate(),
                TextColumn("{task.fields[shown]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(file=sys.stderr),
                # Redirected, what is said would land on the standard error; that is
                # wanted only where both are the same terminal.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._task = self._rich.add_task(name, total=total, unit=unit, shown="")
            self._rich.start()

    def advance(self, count: float = 1, **fields: Any) -> None:
        """Adds finished units; fields such as `loss="1.2"` are shown beside them."""
        self._done += count
        self._fields.update(fields)
        if self._rich is not None:
            self._rich.update(self._task, advance=count, shown=self._shown())
        elif _is_main and time.monotonic() - self._printed >= _LINE_INTERVAL:
            self._line()

    def close(self) -> None:
        """Ends the line."""
        if self._rich is not None:
            self._rich.stop()
        elif _is_main:
            self._line()

    def _shown(self) -> str:
        return " ".join(f"{name} {value}" for name, value in self._fields.items())

    def _line(self) -> None:
        self._printed = now = time.monotonic()
        took = now - self._since
        rate = self._done / max(took, 1e-9)
        parts = [
            f"{self._name} {self._done:,.0f}/{self._total:,.0f}",
            f"{rate:,.1f} {self._unit}/s",
            self._shown(),
            _clock(took),
        ]
        # Before the first unit is done nobody knows how long the rest takes.
        if self._done:
            parts.append(f"{_clock((self._total - self._done) / rate)} left")
        line = ", ".join(part for part in parts if part)
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(name: str, total: int, unit: str) -> Iterator[Bar]:
    """Shows the progress of a piece of work while the block runs."""
    bar = Bar(name, total, unit)
    try:
        yield bar
    finally:
        bar.close()
