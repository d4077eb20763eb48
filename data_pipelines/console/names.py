"""Looks up typed names in a table and suggests the closest one for a typo."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from data_pipelines.console.errors import UserError

T = TypeVar("T")

# Longer than any known name; typed text may have any length.
_LONGEST = 80
# Least similarity of a suggestion, from 0 to 1, and how far it may be below the best.
_ALIKE, _TIE = 0.6, 0.05


def closest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that a mistyped one may stand for, best first.

    Case, and `-` for `_`, make no difference.
    """
    scores = {other: likeness(name, other) for other in known}
    best = max(scores.values(), default=0.0)
    if best < _ALIKE:
        return []
    near = [other for other, score in scores.items() if score >= best - _TIE]
    return sorted(near, key=lambda other: -scores[other])[:3]


def likeness(name: str, other: str) -> float:
    """How alike two names are, from 0 to 1."""
    one, two = (x[:_LONGEST].lower().replace("-", "_") for x in (name, other))
    return difflib.SequenceMatcher(None, one, two, autojunk=False).ratio()


def did_you_mean(name: str, known: Iterable[str], written: str = "{}") -> str:
    """The end of an error line about a mistyped name; empty if none is close.

    Args:
        name: as typed.
        known: names that would be right.
        written: how a name is typed, with `{}` in its place, for example `--{}`.
    """
    return ask(written.format(other) for other in closest(name, known))


def ask(suggestions: Iterable[str]) -> str:
    """`; did you mean X or Y?`, or nothing if there is no suggestion."""
    text = " or ".join(suggestions)
    return f"; did you mean {text}?" if text else ""


def shortened(text: str) -> str:
    """A text of unknown length, quoted and cut to fit into one line."""
    return repr(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")


def pick(table: Mapping[str, T], name: str, what: str) -> T:
    """Looks up a row of a table by a typed name.

    Args:
        table: rows by name.
        name: as typed.
        what: what the table lists, for the message.

    Raises:
        UserError: there is no such row.
    """
    if name not in table:
        raise UserError(
            f"{what} {shortened(name)} is not one of {', '.join(table)}"
            f"{did_you_mean(name, table)}"
        )
    return table[name]
