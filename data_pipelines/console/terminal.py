"""Terminal output: tables, one progress line, quiet libraries.

Results go to standard output, progress to standard error. Only process 0 prints.

`rich` and `absl` are imported late: a help text needs neither.
"""

import contextlib
import io
import json
import logging
import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from data_pipelines.console.errors import UserError, on_one_line
from data_pipelines.console.pace import Pace
from data_pipelines.console.printable import printable
from data_pipelines.console.surroundings import discard

if TYPE_CHECKING:
    from data_pipelines.console.live_progress import LiveProgress

# Seconds between progress lines if standard error is not a terminal.
_LINE_INTERVAL = 10.0
# Wider than any table: rich would truncate cells to make a table fit, while a number
# that the terminal wraps can still be read.
_TABLE_WIDTH = 10_000
# Items of which even short work, such as a look at a file, may take seconds.
_MANY = 1_000

T = TypeVar("T")

_is_main = True


def set_main_process(is_main: bool) -> None:
    """Silences this process unless it is the main one."""
    global _is_main
    _is_main = is_main


def quiet_libraries() -> None:
    """Silences libraries' log messages; call it before they are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for name in ("tensorflow", "orbax", "jax", "etils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import absl.logging

    # absl has its own level, which parsing its flags resets.
    absl.logging.set_verbosity(absl.logging.ERROR)


def say(text: str) -> None:
    """Prints one line to standard output, whatever the text holds.

    Line ends and the codes that control a terminal are escaped, as file names and
    captions may hold them. A word of a command to copy is written by
    `printable.shell_word`, which leaves nothing to escape.
    """
    _print(printable(text))


def say_json(value: Any) -> None:
    """Prints a JSON value over several lines to standard output."""
    # JSON leaves one control character as it is.
    _print(json.dumps(value, indent=1).replace("\x7f", "\\u007f"))


def _print(text: str) -> None:
    """Prints text that holds nothing but what this project put there."""
    if not _is_main:
        return
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        discard(sys.stdout)
        raise UserError(f"the output cannot be written ({error})") from None


def inform(text: str) -> None:
    """Prints one line to standard error: what is done, beside the results."""
    if _is_main:
        print(on_one_line(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Prints one warning line to standard error."""
    if _is_main:
        print(f"warning: {on_one_line(text)}", file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table; all columns but the first are right-aligned numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # `Text`, because rich interprets square brackets in a plain string as markup.
    drawn = Table(
        title=Text(printable(title)), title_justify="left", title_style="bold", box=None
    )
    for i, column in enumerate(columns):
        justify = "right" if i else "left"
        drawn.add_column(Text(printable(str(column))), justify=justify, no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(printable(str(cell))) for cell in row))
    # Rendered to a buffer and printed at once, so that a progress line moves below it.
    buffer = io.StringIO()
    # NO_COLOR also turns off bold: no control characters at all.
    styled = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    console = Console(file=buffer, width=_TABLE_WIDTH, force_terminal=styled)
    console.print(drawn)
    _print(buffer.getvalue().rstrip("\n"))


def clock(seconds: float) -> str:
    """Seconds as `9 s`, `1:02` or `1:00:02`."""
    whole = round(max(seconds, 0))
    minutes, left = divmod(whole, 60)
    if not minutes:
        return f"{left} s"
    if minutes < 60:
        return f"{minutes}:{left:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}"


class Bar:
    """The progress of a running task; `advance` updates it."""

    def __init__(self, name: str, total: int, unit: str):
        self._name, self._unit = printable(name), unit
        self._pace, self._printed = Pace(total), time.monotonic()
        self._fields: dict[str, Any] = {}
        self._live: LiveProgress | None = None
        if _is_main and sys.stderr.isatty():
            from data_pipelines.console import live_progress

            self._live = live_progress.LiveProgress(self._name, self._pace, unit)

    def advance(self, count: float = 1, **fields: Any) -> None:
        """Adds finished units; fields such as `loss="1.2"` are shown beside them."""
        self._pace.add(count)
        self._fields.update(fields)
        if self._live is not None:
            self._live.advance(count, self._shown())
        elif _is_main and time.monotonic() - self._printed >= _LINE_INTERVAL:
            self._line()

    def close(self) -> None:
        """Finishes the progress line."""
        if self._live is not None:
            self._live.stop()
        # Of nothing there is no progress.
        elif _is_main and self._pace.total:
            self._line()

    def _shown(self) -> str:
        shown = (f"{name} {value}" for name, value in self._fields.items())
        return printable(" ".join(shown))

    def _line(self) -> None:
        self._printed, pace = time.monotonic(), self._pace
        parts = [
            f"{self._name} {pace.done:,.0f}/{pace.total:,.0f}",
            f"{pace.rate():,.1f} {self._unit}/s",
            self._shown(),
            clock(pace.elapsed()),
        ]
        left = pace.seconds_left()
        if left is not None:
            parts.append(f"{clock(left)} left")
        line = ", ".join(part for part in parts if part)
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(name: str, total: int, unit: str) -> Iterator[Bar]:
    """Shows the progress of a task while the block runs."""
    bar = Bar(name, total, unit)
    try:
        yield bar
    finally:
        bar.close()


def each_shown(name: str, items: Collection[T], unit: str) -> Iterator[T]:
    """Yields items whose work is short, with progress where they are many."""
    if len(items) < _MANY:
        yield from items
        return
    with progress(name, len(items), unit) as bar:
        for item in items:
            yield item
            bar.advance()
