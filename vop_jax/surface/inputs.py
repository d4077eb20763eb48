"""Validates the arguments of the Python interface: one clear line per mistake."""

import operator
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable
from data_pipelines.decoding.containers import MAX_PIXELS

# More frames per video are taken for a mistake.
MOST_FRAMES = 10_000
# No number of things in memory is larger.
MOST = sys.maxsize // 2
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_VIDEOS = "videos, frames, height, width, 3"
_TEXTS = "texts are all strings, or all lists of token ids (whole numbers)"
_SHOWN = 200


def kind_of(value: Any) -> str:
    """A value's type or shape for a message; never the value, which may be huge."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__


def shown(text: str) -> str:
    """A text of unknown length, cut and on one line."""
    cut = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return printable(cut)


def whole_number(value: Any, name: str, most: int | None = None) -> int:
    """Validates a count of at least 1.

    Raises:
        UserError: anything else.
    """
    limits = "of at least 1" if most is None else f"from 1 to {most:,}"
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise UserError(f"{name} is {kind_of(value)}; it is a whole number {limits}")
    if not 1 <= number <= (MOST if most is None else most):
        given = str(number) if abs(number) < 10**18 else "out of range"
        raise UserError(f"{name} is {given}; it is a whole number {limits}")
    return number


def path_of(value: Any, name: str) -> str:
    """A path as a string, with `~` expanded.

    Raises:
        UserError: it is not a path, is empty, or is a URL.
    """
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{name} is {kind_of(value)}, not a path (a str or a Path)")
    try:
        path = os.fsdecode(value)
    # A class of the caller's whose `__fspath__` gives something else.
    except TypeError:
        raise UserError(
            f"{name} is {kind_of(value)}, whose __fspath__ gives no path"
        ) from None
    if not path:
        raise UserError(f"{name} is an empty string, not a path")
    if _URL.match(path) and not os.path.exists(path):
        raise UserError(
            f"{name} is a URL ({shown(path)}); download it and pass the file"
        )
    path = os.path.expanduser(path)
    # `~` of an unknown user stays; made absolute, it is treated as a plain file name.
    return os.path.abspath(path) if path.startswith("~") else path


def place_of(value: Any) -> str:
    """Validates a path or a model's name.

    Raises:
        UserError: it is neither.
    """
    try:
        return path_of(value, "the model")
    except UserError as error:
        raise UserError(
            f"{error}; pass a folder, or a model's name on the Hugging Face hub"
        ) from None


def file_of(value: Any, name: str, kind: str) -> Path:
    """Validates the path of a file, which may be missing.

    Args:
        value: as passed.
        name: of the argument.
        kind: the usual name of such a file.

    Raises:
        UserError: it is not a path, or leads to something else.
    """
    path = Path(path_of(value, name))
    if path.exists() and not path.is_file():
        raise UserError(f"{shown(str(path))} is not a file; pass a {kind}")
    return path


def as_array(value: Any, name: str) -> np.ndarray:
    """Converts to an array: from NumPy, JAX, PyTorch, or nested lists.

    Raises:
        UserError: it cannot, for example because its rows have different lengths.
    """
    if np.ma.is_masked(value):
        raise UserError(f"{name} has masked values; fill them or leave them out")
    try:
        return np.asarray(value)
    # Other libraries raise any error, for example for an array on a device.
    except Exception as error:
        if "inhomogeneous" in str(error):
            raise UserError(f"{name} has rows of different lengths") from None
        reason = shown((str(error).strip() or type(error).__name__).splitlines()[0])
        raise UserError(f"{name} cannot be read as an array ({reason})") from None


def check_frames(
    frames: np.ndarray, name: str, axes: str = "frames, height, width, 3"
) -> UInt8[np.ndarray, "*B F H W 3"]:
    """Checks that an array holds frames.

    Raises:
        UserError: it does not.
    """
    count = axes.count(",") + 1
    form = f"uint8 [{axes}]"
    if frames.ndim != count or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        hint = ""
        if count == 5 and frames.ndim == 4 and frames.dtype == np.uint8:
            hint = "; pass frames[None] for one video"
        raise UserError(f"{name} are {kind_of(frames)}; they must be {form}{hint}")
    if not all(frames.shape[-4:]):
        raise UserError(f"{name} are {kind_of(frames)}, which holds no pixel")
    count, height, width, _ = frames.shape[-4:]
    # An array of strides of 0 states any size, and copies of it would take memory.
    if count > MOST_FRAMES or height * width > MAX_PIXELS:
        raise UserError(
            f"{name} are {kind_of(frames)}; a video has at most {MOST_FRAMES:,} frames "
            f"of {MAX_PIXELS:,} pixels"
        )
    return frames


def videos_of(videos: Any) -> UInt8[np.ndarray, "B F H W 3"] | Iterable[Any]:
    """Validates `videos`: one array of frames, or an iterable of paths and arrays.

    Raises:
        UserError: it is neither.
    """
    wanted = f"videos are a list of paths, or frames uint8 [{_VIDEOS}]"
    if isinstance(videos, str | os.PathLike):
        path = path_of(videos, "videos")
        if os.path.isdir(path):
            raise UserError(
                f"{shown(path)} is a folder; pass a list of the files in it, such as "
                "sorted(Path(folder).glob('*.mp4'))"
            )
        raise UserError(
            f"encode_videos takes a list; pass [path] for the one file {shown(path)}"
        )
    items = _items(videos, wanted)
    if not isinstance(items, np.ndarray):
        return items
    if items.dtype.kind in "OUS" or hasattr(items.dtype, "na_object"):
        if items.ndim != 1:
            raise UserError(f"videos are {kind_of(items)}; pass one list of paths")
        return items.tolist()
    return check_frames(items, "frames", _VIDEOS)


def texts_of(texts: Any) -> list[str] | Int[np.ndarray, "B N"]:
    """Validates `texts`: strings, or token ids in one array.

    Raises:
        UserError: it is neither, or a mixture.
    """
    wanted = "texts are a list of strings, or token ids [texts, tokens]"
    if isinstance(texts, str):
        raise UserError("encode_texts takes a list; pass [text] for one text")
    items = _items(texts, wanted)
    if isinstance(items, np.ndarray):
        if items.dtype.kind not in "OUS" and not hasattr(items.dtype, "na_object"):
            return _check_ids(items)
        if items.ndim != 1:
            raise UserError(f"texts are {kind_of(items)}; pass one list of strings")
        items = items.tolist()
    items = list(items)
    if not items or isinstance(items[0], str):
        return [_text(item, number) for number, item in enumerate(items)]
    return _padded([_id_row(item, number) for number, item in enumerate(items)])


def _items(values: Any, wanted: str) -> np.ndarray | Iterable[Any]:
    """An array, or any other ordered iterable."""
    if isinstance(values, bytes | bytearray | memoryview | Mapping | Set):
        raise UserError(f"{wanted}, not {kind_of(values)}")
    if hasattr(values, "__array__"):
        return as_array(values, "the array")
    if not isinstance(values, Iterable):
        raise UserError(f"{wanted}, not {kind_of(values)}")
    return values


def _text(item: Any, number: int) -> str:
    if not isinstance(item, str):
        raise UserError(f"text {number} is {kind_of(item)}; {_TEXTS}")
    try:
        item.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"text {number} is not valid Unicode; decode it with errors='replace'"
        ) from None
    return str(item)


def _id_row(item: Any, number: int) -> np.ndarray:
    name = f"text {number}"
    if not hasattr(item, "__array__") and (
        not isinstance(item, Sequence) or isinstance(item, str | bytes | bytearray)
    ):
        raise UserError(f"{name} is {kind_of(item)}; {_TEXTS}")
    row = as_array(item, name)
    if row.ndim != 1 or row.dtype.kind not in "iu":
        raise UserError(f"{name} is {kind_of(row)}; {_TEXTS}")
    return row


def _padded(rows: Sequence[np.ndarray]) -> Int[np.ndarray, "B N"]:
    """Rows of different lengths as one array, padded with zeros at the end."""
    longest = max(len(row) for row in rows)
    ids = np.zeros((len(rows), longest), np.result_type(np.int64, *rows))
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    return _check_ids(ids)


def _check_ids(ids: np.ndarray) -> np.ndarray:
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise UserError(
            f"token ids are {kind_of(ids)}; they must be whole numbers [texts, tokens]"
        )
    return ids


def check_padded(ids: Int[np.ndarray, "B N"], length: int) -> None:
    """Checks texts of a model that reads all positions, padding included.

    Raises:
        UserError: they are shorter or longer.
    """
    if ids.shape[1] != length:
        raise UserError(
            f"this model reads all {length} positions of a text, padding included; "
            f"pass {length} token ids per text, padded as its tokenizer does"
        )


def padded_ids(
    ids: Int[np.ndarray, "B N"], length: int, vocabulary: int, end: int | None
) -> Int[np.ndarray, "B N"]:
    """Token ids as the text tower takes them: checked, and 0 after the EOT token.

    Args:
        ids: at least one text.
        length: the most tokens of a text.
        vocabulary: number of token ids.
        end: the EOT token; None if the model reads all positions instead.

    Raises:
        UserError: they are not captions of this model.
    """
    if ids.size and (ids.min() < 0 or ids.max() >= vocabulary):
        raise UserError(f"token ids must be from 0 to {vocabulary - 1}")
    if end is None:
        check_padded(ids, length)
        return ids.astype(np.int32)
    if not (ids[:, :length] == end).any(axis=1).all():
        raise UserError(
            f"every text must hold the EOT token {end} within its first {length} tokens"
        )
    ids = ids[:, :length].astype(np.int32)
    # Ids after the first EOT token are padding; some tokenizers pad with EOT.
    behind = np.cumsum(ids == end, axis=1) - (ids == end) > 0
    return np.where(behind, 0, ids)
