"""Mistakes in a file of captions: gathered, and told with their rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.console.counted import counted
from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import inform, warn

# Rows and names that a line tells.
_SHOWN = 5


class Mistake(NamedTuple):
    """What is wrong with a row.

    Attributes:
        row: its number as a spreadsheet counts, the header being row 1.
        what: is wrong; the mistakes that agree in it are told in one line.
        advice: what to do.
        name: what it is about, such as a file; may be empty.
    """

    row: int
    what: str
    advice: str
    name: str = ""


def some(names: Sequence[object]) -> str:
    """The first of a list of names, and how many more there are."""
    shown = [str(x) for x in names[:_SHOWN]]
    if len(names) > _SHOWN:
        return f"{', '.join(shown)} and {len(names) - _SHOWN:,} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def rows_of(numbers: Sequence[int]) -> str:
    """The rows in words, such as "rows 2, 3 and 9"."""
    each = list(dict.fromkeys(numbers))
    return f"row{'s' if len(each) > 1 else ''} {some(each)}"


def lines_of(path: Path, mistakes: Sequence[Mistake]) -> list[str]:
    """A line for each kind of mistake: the file, the rows, what, and what to do."""
    kinds: dict[tuple[str, str], list[Mistake]] = {}
    for mistake in mistakes:
        kinds.setdefault((mistake.what, mistake.advice), []).append(mistake)
    lines = []
    for (what, advice), found in kinds.items():
        names = list(dict.fromkeys(x.name for x in found if x.name))
        said = f"{what}: {some(names)}" if names else what
        lines.append(f"{path}, {rows_of([x.row for x in found])}: {said}; {advice}")
    return lines


def refuse(path: Path, mistakes: Sequence[Mistake], *, leave_out: bool) -> None:
    """Ends the command if there are mistakes, or tells that their rows are left out.

    Args:
        path: the file of captions.
        mistakes: all of them.
        leave_out: whether the rows are left out instead.

    Raises:
        UserError: there are mistakes. If they are of several kinds, each has been
            printed in a line of its own.
    """
    lines = lines_of(path, mistakes)
    if not lines:
        return
    if leave_out:
        for line in lines:
            warn(f"left out: {line}")
        return
    otherwise = "pass --leave_out to do without these rows; nothing was written"
    if len(lines) == 1:
        raise UserError(f"{lines[0]}, or {otherwise}")
    for line in lines:
        inform(f"mistake: {line}")
    raise UserError(
        f"{path} has {counted(len(lines), 'kind')} of mistakes, listed above; correct "
        f"them, or {otherwise}"
    )
