"""Reads arrays from .npy and .npz files of unknown origin, and writes them."""

import io
import math
import mmap
import os
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int
from numpy.lib import format as npy

from data_pipelines.console.errors import UserError
from data_pipelines.files.array_bytes import is_possible, one_line, open_regular
from data_pipelines.files.stand_ins import check_stand_in
from data_pipelines.files.zip_records import BadZip, ZipRecords

# Limits of a compressed array: bytes, or this multiple of the file's size.
_UNPACKED = 64 << 20
_RATIO = 20
# The longest header, which states dtype and shape; NumPy's own limit.
_LONGEST_HEADER = 10_000
_MAGIC = b"\x93NUMPY"
# Version of the format -> size of the header's length field in bytes, NumPy's reader.
# Version 3 only differs for structured arrays.
_VERSIONS = {
    (1, 0): (2, npy.read_array_header_1_0),
    (2, 0): (4, npy.read_array_header_2_0),
}


def read_array(path: Path) -> np.ndarray:
    """The array of a .npy file or the only one of a .npz; no code in it is run.

    A .npy file is memory-mapped, so that a large one is not held twice.

    Returns:
        Real numbers, integers or booleans of any shape; read-only.

    Raises:
        UserError: it is missing, damaged or pickled, holds several arrays or values
            that are not numbers, or decompresses to too much.
    """
    with open_regular(path) as file:
        check_stand_in(path)
        start = file.read(len(_MAGIC))
        try:
            if start == _MAGIC:
                return _array(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            if start.startswith(b"PK\x03\x04"):
                return _array(_only_record(file))
        except (BadZip, UserError) as error:
            raise UserError(f"{path} {error}") from None
        except (ValueError, TypeError, OSError) as error:
            raise UserError(
                f"{path} is damaged ({one_line(error)}); write it again"
            ) from None
    raise UserError(f"{path} is not a .npy or .npz file; use numpy.save")


def read_map(path: Path, texts: int, videos: int) -> Int[np.ndarray, "T"]:
    """The index of each text's video; see `read_array`.

    Args:
        path: the file.
        texts: the number of texts.
        videos: the number of videos.

    Raises:
        UserError: as `read_array`, or it does not hold one video's index per text.
    """
    found = read_array(path)
    needs = (
        f"it must hold, for each of {texts} texts, the index of one of {videos} "
        "videos, from 0"
    )
    if found.shape != (texts,) or found.dtype.kind not in "iu":
        raise UserError(f"{path} holds {found.dtype} {list(found.shape)}; {needs}")
    for value in (found.min(), found.max()):
        if not 0 <= int(value) < videos:
            raise UserError(f"{path} holds the index {value}; {needs}")
    return found.astype(np.int64)


def _only_record(file: BinaryIO) -> bytes:
    records = ZipRecords(file)
    if len(records.sizes) != 1:
        raise UserError(f"holds {len(records.sizes)} arrays; save only one of them")
    size = os.fstat(file.fileno()).st_size
    (name,) = records.sizes
    return records.read(name, max(_UNPACKED, _RATIO * size))


def _array(raw: Any) -> np.ndarray:
    """The array in the bytes of a .npy file, as a view of them."""
    head = io.BytesIO(raw[: _LONGEST_HEADER + 12])
    version = npy.read_magic(head)
    if version not in _VERSIONS:
        raise ValueError(f"version {version} of the format")
    width, read = _VERSIONS[version]
    length = int.from_bytes(raw[8 : 8 + width], "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length:,} bytes")
    with warnings.catch_warnings():
        # Warnings about Python 2's integers and about escapes in a damaged header.
        warnings.simplefilter("ignore")
        # NumPy's message would quote parts of the damaged header.
        try:
            shape, fortran, dtype = read(head)
        except Exception:
            raise ValueError("its header does not describe an array") from None
    if dtype.hasobject:
        raise UserError(
            "holds pickled Python objects, which are not read because they can run "
            "code; save plain numbers"
        )
    if dtype.kind not in "fiub":
        raise UserError(f"holds {one_line(str(dtype))}, not real numbers")
    begin, stated = head.tell(), math.prod(shape) * dtype.itemsize
    if not is_possible(shape) or stated != len(raw) - begin:
        raise ValueError(
            f"its header states {one_line(stated)} bytes, but it has "
            f"{len(raw) - begin:,}"
        )
    return np.ndarray(shape, dtype, raw, begin, order="F" if fortran else "C")


def as_npy(matrix: Any) -> bytes:
    """The content of a .npy file of a matrix that is held."""
    assert isinstance(matrix, np.ndarray)
    file = io.BytesIO()
    np.save(file, matrix)
    return file.getvalue()
