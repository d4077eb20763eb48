"""Ranges of numbers: of command-line flags, and of the fields of a configuration.

Every number that a user can give has one, so that a typing mistake is named and not
met an hour later as an error of a library, or never.
"""

import argparse
import dataclasses
import re
import typing
from collections.abc import Callable
from typing import Any

from data_pipelines.console.errors import UserError
from data_pipelines.console.names import shortened


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a value may be; those that are not finite never are.

    As metadata of an annotated field, `Annotated[int, Range(1, 10)]`, it is checked by
    `check_ranges`.

    Attributes:
        least: the smallest number.
        most: the largest number.
        above: whether `least` itself is excluded.
        below: whether `most` itself is excluded.
    """

    least: float
    most: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        # Of NaN, every comparison is false.
        starts = self.least < value if self.above else self.least <= value
        return starts and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        least, most = f"{self.least:,}", f"{self.most:,}"
        if not self.above and not self.below:
            return f"from {least} to {most}"
        start = "above" if self.above else "at least"
        return f"{start} {least} and {'below' if self.below else 'at most'} {most}"


# Seeds of 32-bit generators; JAX would silently take the remainder of a larger one.
SEEDS = Range(0, 2**31 - 1)
# A 64-bit word holds the integers, and a 64-bit float the other numbers.
_ANY = {int: Range(-(2**63), 2**63 - 1), float: Range(-1e308, 1e308)}
_KINDS = {int: "a whole number", float: "a number"}
_DIGITS = r"[0-9]+"
# Numbers of these words are of no range, which then says what is.
_NOT_FINITE = "(?i:inf|infinity|nan)"
_SPELLED = {
    int: re.compile(rf"[+-]?{_DIGITS}"),
    float: re.compile(
        rf"[+-]?(({_DIGITS}\.?[0-9]*|\.{_DIGITS})([eE][+-]?{_DIGITS})?|{_NOT_FINITE})"
    ),
}


def read_number(text: str, kind: type) -> Any:
    """Reads a number that a user wrote, in ASCII digits alone, such as -3 or 1e-3.

    Python's types also take underscores, spaces and the digits of other scripts, in
    which a typing mistake is another number.

    Args:
        text: the number; `inf` and `nan` are numbers, of no range.
        kind: `int` or `float`.

    Raises:
        ValueError: it is not such a number; the text says what is expected.
    """
    if not _SPELLED[kind].fullmatch(text):
        raise ValueError(f"it must be {_KINDS[kind]}")
    try:
        return kind(text)
    # Python reads no whole number of thousands of digits.
    except ValueError:
        raise ValueError(f"it must be {_KINDS[kind]}") from None


def number(kind: type, within: Range | None = None) -> Callable[[str], Any]:
    """An argparse `type`: a number within a range.

    Args:
        kind: `int` or `float`.
        within: the range; by default every finite number of 64 bits.
    """
    allowed = _ANY[kind] if within is None else within

    def read(text: str) -> Any:
        try:
            value = read_number(text, kind)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{shortened(text)} is not {_KINDS[kind]}"
            ) from None
        if value not in allowed:
            raise argparse.ArgumentTypeError(
                f"{shortened(text)} is out of range; it must be {allowed}"
            )
        return value

    return read


def field_ranges(kind: type) -> dict[str, Range]:
    """The ranges of a dataclass's fields, by their names."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        for about in getattr(hint, "__metadata__", ()):
            if isinstance(about, Range):
                found[name] = about
    return found


def check_ranges(values: Any, where: str) -> None:
    """Checks the fields of a dataclass, and of those inside it, against their ranges.

    Args:
        values: an instance of a dataclass.
        where: names it in an error, as `config.optimizer`.

    Raises:
        UserError: a number is out of its range, infinite or NaN.
    """
    ranges = field_ranges(type(values))
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{where}.{field.name}")
        elif field.name in ranges and value not in ranges[field.name]:
            raise UserError(
                f"{where}.{field.name} is {value}; it must be {ranges[field.name]}"
            )
