"""Reads a table of captions in any form that spreadsheets save it in."""

import codecs
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.console.errors import UserError
from data_pipelines.console.names import did_you_mean, shortened
from data_pipelines.files.json_files import LARGEST_ANNOTATIONS, read_bytes
from data_pipelines.files.stand_ins import check_content
from vop_jax.own_data.mistakes import Mistake

COLUMNS = ("video", "caption")
# In the order in which they are tried: what separates the fields, and its name.
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# A codec, what it is called if it is not the usual one, and how such a file begins.
_MARKS = (
    ("utf-8", "", codecs.BOM_UTF8),
    ("utf-16-le", "UTF-16", codecs.BOM_UTF16_LE),
    ("utf-16-be", "UTF-16", codecs.BOM_UTF16_BE),
)
# An .xlsx or .ods is a zip file, an .xls an OLE file.
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_AS_UTF8 = 'save it again as "CSV UTF-8"'


class Row(NamedTuple):
    """A row of the table; `number` is as a spreadsheet counts, the header being 1."""

    number: int
    video: str
    caption: str
    split: str


class CaptionsFile(NamedTuple):
    """What a file of captions holds.

    Attributes:
        path: the file.
        rows: those that could be read.
        mistakes: in the others.
        form: how it was read, if not as UTF-8 separated by commas; else empty.
    """

    path: Path
    rows: list[Row]
    mistakes: list[Mistake]
    form: str


def read_captions(path: Path) -> CaptionsFile:
    """Reads a CSV with a header that has the columns `video` and `caption`.

    UTF-8 with or without a byte order mark, or UTF-16; separated by commas, semicolons
    or tabs; other columns but `split` are ignored.

    Raises:
        UserError: it cannot be read, is of another encoding or kind, or lacks a column.
    """
    text, encoding = _text_of(path)
    last, separator = 0, ""
    # Excel's own line about the separator, which it does not show as a row.
    first, _, rest = text.partition("\n")
    # A tab may be what it names.
    first = first.strip(" \r")
    if first.lower().startswith("sep=") and first[4:] in _SEPARATORS:
        text, separator = rest, first[4:]
    rows, mistakes, header = [], [], []
    try:
        separator = separator or _separator_of(text)
        # newline="" as `csv` requires: a quoted field may hold a line end.
        records = csv.reader(
            io.StringIO(text, newline=""), delimiter=separator, strict=True
        )
        for number, record in enumerate(records, 1):
            last = number
            if not header:
                header = _header_of(f"{path}, row {number}", record)
            elif any(cell.strip() for cell in record):
                if wrong := _wrong_length(number, record, header, separator):
                    mistakes.append(wrong)
                    continue
                named = dict(zip(header, record, strict=True))
                video, caption = (named[x].strip() for x in COLUMNS)
                split = named.get("split", "").strip()
                rows.append(Row(number, video, caption, split))
    except csv.Error as error:
        raise UserError(
            f"{path}, row {last + 1}: {error}; look for a quotation mark that is "
            "opened and not closed, or for a field that is too long"
        ) from None
    if not header:
        raise UserError(f"{path} is empty; its first row is video,caption")
    forms = [
        encoding,
        "" if separator == "," else f"separated by {_SEPARATORS[separator]}",
    ]
    return CaptionsFile(path, rows, mistakes, ", ".join(filter(None, forms)))


def _text_of(path: Path) -> tuple[str, str]:
    """The text of the file, and its encoding's name if it is not UTF-8."""
    try:
        content = read_bytes(path, LARGEST_ANNOTATIONS)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"{path} cannot be read ({reason}); pass the CSV of the captions as "
            "--captions"
        ) from None
    if content.startswith(_WORKBOOKS):
        raise UserError(f'{path} is a workbook; save it as "CSV UTF-8" and pass that')
    check_content(path, content, may_be_empty=True)
    codec, name, mark = next(
        (x for x in _MARKS if content.startswith(x[2])), _without_mark(content)
    )
    content = content.removeprefix(mark)
    try:
        text = content.decode(codec)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: it is not {name or 'UTF-8'} (byte "
            f"{content[error.start]:#04x}); {_AS_UTF8}"
        ) from None
    first = next((x for x in text.splitlines() if x.strip("\0 \t,;")), "")
    # UTF-32 read as UTF-16, or text that was converted twice.
    if "\0" in first or "\ufeff" in first or "\ufffe" in first:
        raise UserError(f"{path}: its encoding is not understood; {_AS_UTF8}")
    return text, name


def _without_mark(content: bytes) -> tuple[str, str, bytes]:
    """The codec of a file without a mark, as a row of `_MARKS`."""
    # The header is ASCII, of which UTF-16 makes every other byte zero.
    for place, codec in enumerate(("utf-16-be", "utf-16-le")):
        if content[place : place + 1] == b"\0":
            return codec, "UTF-16", b""
    return "utf-8", "", b""


def _separator_of(text: str) -> str:
    """The first separator that finds both columns, else the one of the most fields."""
    first = next((x for x in text.splitlines() if x.strip()), "")
    fields = {
        x: _folded(next(csv.reader([first], delimiter=x), [])) for x in _SEPARATORS
    }
    for separator, names in fields.items():
        if set(COLUMNS) <= set(names):
            return separator
    return max(fields, key=lambda x: len(fields[x]))


def _folded(header: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in header]


def _header_of(where: str, record: Sequence[str]) -> list[str]:
    """The names of the columns, in lower case.

    Raises:
        UserError: one of the two is missing, or there twice.
    """
    header = _folded(record)
    if not any(header):
        return []
    for name in (*COLUMNS, "split"):
        if header.count(name) > 1:
            raise UserError(f"{where}: the column {name} is there twice")
    absent = [name for name in COLUMNS if name not in header]
    if absent:
        others = [x for x in header if x and x not in COLUMNS]
        hint = next(filter(None, (did_you_mean(x, others) for x in absent)), "")
        raise UserError(
            f"{where}: there is no column {' and no column '.join(absent)}, only "
            f"{', '.join(shortened(x) for x in record[:8])}; name the columns video "
            f"and caption{hint}"
        )
    return header


def _wrong_length(
    number: int, record: Sequence[str], header: Sequence[str], separator: str
) -> Mistake | None:
    if len(record) > len(header):
        return Mistake(
            number,
            f"more than {len(header)} fields",
            f'put a caption that holds "{separator}" in quotation marks'.replace(
                "\t", "a tab"
            ),
        )
    if len(record) < len(header):
        return Mistake(number, f"fewer than {len(header)} fields", "fill the row")
    return None
