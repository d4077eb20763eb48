"""Reads NumPy's `.npz` files of weights, as JAX projects write them, within limits.

NumPy's own reader is not used: it trusts the sizes that the archive states, and unpacks
whatever it holds. No pickle is read, so that no code in a file is ever run.
"""

import io
import math
import tokenize
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from data_pipelines.console.errors import UserError
from data_pipelines.files.array_bytes import (
    MOST_TENSORS,
    is_plain_name,
    is_possible,
    one_line,
    open_regular,
)
from data_pipelines.files.zip_records import BadZip, ZipRecords

_SUFFIX = ".npy"
# Bytes of a record that hold its header; a header of NumPy's takes 128.
_HEAD = 4_096
_UNREADABLE = (
    *(ArithmeticError, LookupError, MemoryError, RecursionError, SyntaxError),
    *(TypeError, ValueError, tokenize.TokenError),
)
_READERS = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


class NpzFile:
    """The arrays of a file, each read on demand.

    Attributes:
        shapes: name -> shape.

    Args:
        path: the file.
        stack: closes it at the end.

    Raises:
        UserError: missing, damaged, compressed, or not of floating-point arrays.
    """

    def __init__(self, path: Path, stack: ExitStack):
        self._path = path
        file = stack.enter_context(open_regular(path))
        try:
            self._records = ZipRecords(file)
        except BadZip as error:
            raise UserError(f"{path} {error}") from None
        names = list(self._records.sizes)
        if len(names) > MOST_TENSORS:
            raise UserError(f"{path} holds more than {MOST_TENSORS:,} arrays")
        self.shapes: dict[str, tuple[int, ...]] = {}
        for record in names:
            name = record.removesuffix(_SUFFIX)
            if name == record or not is_plain_name(name):
                raise UserError(
                    f"{path} holds {one_line(record)!r}, which is not an array of "
                    "NumPy's"
                )
            self.shapes[name] = self._header(record, self._head(record))[0]

    def read(self, name: str) -> np.ndarray:
        """The array of a name, as it is stored."""
        record = name + _SUFFIX
        try:
            content = self._records.read(record)
        except BadZip as error:
            raise UserError(f"{self._path} {error}") from None
        shape, fortran, dtype, begin = self._header(record, content)
        value = np.frombuffer(content, dtype, offset=begin)
        return value.reshape(shape, order="F" if fortran else "C")

    def _head(self, record: str) -> bytes:
        try:
            return self._records.head(record, _HEAD)
        except BadZip as error:
            raise UserError(f"{self._path} {error}") from None

    def _header(
        self, record: str, content: bytes
    ) -> tuple[tuple[int, ...], bool, np.dtype, int]:
        """Shape, order, type and the beginning of an array's bytes."""
        where = f"{self._path}: {one_line(record)}"
        file = io.BytesIO(content[:_HEAD])
        try:
            read = _READERS[npy.read_magic(file)]
            shape, fortran, dtype = read(file, max_header_size=_HEAD)
        # NumPy parses it as Python's own text, which fails in any way.
        except _UNREADABLE:
            raise UserError(
                f"{where} has no header of a NumPy array; fetch the file again"
            ) from None
        if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
            raise UserError(
                f"{where} holds {one_line(dtype.name)}, not floating-point numbers; "
                "save the weights as float32"
            )
        whole = all(type(n) is int for n in shape)
        if not whole or not is_possible(shape):
            raise UserError(f"{where} has a shape that no array has")
        stated = file.tell() + math.prod(shape) * dtype.itemsize
        if stated != self._records.sizes[record]:
            raise UserError(
                f"{where} has {self._records.sizes[record]:,} bytes instead of "
                f"{stated:,}; fetch the file again"
            )
        return shape, fortran, dtype, file.tell()


def is_npz(path: Path, head: bytes) -> bool:
    """Whether a file that begins with these bytes is NumPy's archive by its name."""
    return path.suffix == ".npz" and head.startswith(b"PK")
