"""Annotation files read strictly: text, lists, tables, JSON."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import (
    LARGEST_ANNOTATIONS,
    StopAtFirst,
    described,
    read_described,
    read_utf8,
    shown,
)

T = TypeVar("T")


Strings = Annotated[list[str], StopAtFirst()]


_ADVICE = "pass its folder as --annotations"


def read_text(path: Path) -> str:
    """Reads a UTF-8 file with any line ends, with or without a byte order mark.

    Raises:
        UserError: missing, not a regular file, too large, or not UTF-8.
    """
    return read_utf8(path, LARGEST_ANNOTATIONS, _ADVICE)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields number and text of each line that is not blank, without its line end."""
    # Not `splitlines`: a caption may hold one of Unicode's other line separators.
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def read_list(path: Path) -> list[str]:
    """Reads a file of ids, one per line."""
    return [line.strip() for _, line in read_lines(path)]


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict]]:
    """Yields line number and values of each row of a CSV file with a header.

    Args:
        path: the file.
        columns: the required ones.

    Raises:
        UserError: no header with these columns, or a row of another length.
    """
    # newline="" as `csv` requires: a quoted field may hold a line end.
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        double = [name for name in columns if header.count(name) > 1]
        if double:
            raise UserError(f"{path}: the header has {double[0]} twice; rename one")
        absent = [name for name in columns if name not in header]
        if absent:
            raise UserError(
                f"{path}: the header lacks {', '.join(absent)}; it is "
                f"{shown(' '.join(','.join(header).split()), str) or 'empty'}"
            )
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {rows.line_num}: {len(row)} fields instead of "
                    f"{len(header)}; put a field that holds a comma in quotes"
                )
            yield rows.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}") from None


def read_annotations(path: Path, description: type[T] | Any) -> T:
    """Reads a JSON file and validates it against a schema.

    Raises:
        UserError: it cannot be read, is damaged, or does not fit the schema.
    """
    return read_described(path, description, LARGEST_ANNOTATIONS, _ADVICE)


def read_caption_lists(path: Path) -> dict[str, list[str]]:
    """Reads a JSON object that maps each id to the list of its captions."""
    return dict(read_items(path, Strings))


def read_items(path: Path, description: type[T] | Any) -> Iterator[tuple[str, T]]:
    """Yields the keys of a JSON object, each with its validated value.

    Raises:
        UserError: it cannot be read, is damaged, or does not fit the schema.
    """
    for key, value in read_annotations(path, dict).items():
        yield key, described(value, description, f"{path}: {shown(key, repr)}")
