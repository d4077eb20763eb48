"""Checks that every reader of untrusted arrays shares: files, names, values."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipelines.console.errors import UserError
from data_pipelines.files import regular_files

# Larger than in any real model, small enough to be refused quickly.
MOST_AXES = 16
LONGEST_NAME = 256
MOST_TENSORS = 20_000
# Elements checked at a time: a few MB, however large the tensor.
_BLOCK = 1 << 19
# Exponent bits of each 16-bit type; all are set only in an infinity or a NaN.
_EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading; refuses pipes, devices, sockets and folders.

    Raises:
        UserError: missing, not readable, or not a regular file.
    """
    try:
        return regular_files.open_regular(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} cannot be read ({reason}); use a file") from None


def read_start(path: Path, size: int) -> bytes:
    """The first bytes of a file, fewer where it has fewer.

    Raises:
        UserError: as of `open_regular`, or they cannot be read.
    """
    try:
        return regular_files.read_start(path, size)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} cannot be read ({reason}); use a file") from None


def one_line(value: object) -> str:
    """Text for a message, on one line and of bounded length.

    Args:
        value: a string, a number or an error; of anything else only the type is named,
            because its text could be of any size.
    """
    if isinstance(value, int) and value.bit_length() > 256:
        return "an integer of more than 77 digits"
    if not isinstance(value, str | int | float | BaseException):
        return f"a {type(value).__name__}"
    text = str(value)[:1000]
    text = " ".join("".join(x if x.isprintable() else " " for x in text).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def is_plain_name(name: str) -> bool:
    """Whether a tensor's name is short and can be printed."""
    return len(name) <= LONGEST_NAME and name.isprintable()


def is_possible(shape: Sequence[int]) -> bool:
    """Whether NumPy can represent an array of this shape."""
    return (
        len(shape) <= MOST_AXES
        and math.prod(max(1, n) for n in shape) <= 2**56
        and min(shape, default=0) >= 0
    )


def check_weights(value: np.ndarray, where: str) -> np.ndarray:
    """Checks that a tensor is finite, also as float32, without copying it.

    Args:
        value: of any shape and memory layout.
        where: the file and the tensor, for the error.

    Returns:
        The same array.

    Raises:
        UserError: it holds integers, complex numbers, or a value that is not finite.
    """
    kind = value.dtype.name
    if kind not in (*_EXPONENTS, "float32", "float64"):
        raise UserError(
            f"{where} holds {one_line(kind)}, not floating-point numbers; save the "
            "weights as float32"
        )
    # The type stubs describe several arrays; for one array it yields blocks.
    blocks: Any = np.nditer(
        value,
        flags=["external_loop", "buffered", "zerosize_ok"],
        order="K",
        buffersize=_BLOCK,
    )
    for block in blocks:
        if not _is_finite(block, kind):
            raise UserError(
                f"{where} holds NaN, infinity or a number beyond float32; fetch the "
                "file again, or train the model again"
            )
    return value


def _is_finite(block: np.ndarray, kind: str) -> bool:
    if kind in _EXPONENTS and block.dtype.isnative:
        exponent = np.uint16(_EXPONENTS[kind])
        return not ((block.view(np.uint16) & exponent) == exponent).any()
    if kind == "float64":
        # A NaN compares as false.
        return bool((np.abs(block) <= np.finfo(np.float32).max).all())
    return bool(np.isfinite(block).all())
