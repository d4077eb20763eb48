"""Recognises a wrong file under the right name: Git LFS pointers, error pages, formats.

A failed download often leaves such a file. It is recognised by its first bytes and
named in the error, because a parser's own message would not point to the cause.
"""

import re
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from data_pipelines.console.errors import UserError

_HEAD = 512
# Characters of a text file that an error shows.
_SHOWN = 40


class Kind(NamedTuple):
    """One kind of file.

    Attributes:
        pattern: matches its first bytes.
        what: names it in an error.
        advice: what to do.
    """

    pattern: re.Pattern[bytes]
    what: str
    advice: str


def _kind(pattern: bytes, what: str, advice: str) -> Kind:
    return Kind(re.compile(pattern, re.DOTALL), what, advice)


_FETCH = "fetch the file itself again"
# Kinds that may be found instead of any file.
_ANY = (
    _kind(
        rb"version https?://(git-lfs\.github\.com|hawser\.github\.com)/spec/",
        "a Git LFS pointer, not the file itself",
        "run git lfs pull in its folder, or download the file",
    ),
    _kind(
        rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body)\b",
        "an HTML page, as a server sends instead of a file",
        _FETCH,
    ),
    _kind(
        rb"(?i)(\xef\xbb\xbf)?\s*<(\?xml|error>)",
        "an XML document, as a server sends instead of a file",
        _FETCH,
    ),
)
_OTHER = "use PyTorch's or safetensors weights of the same model"
_UNPACK = "unpack it and use what is in it"
# Kinds that may be found instead of weights.
_WEIGHTS = (
    _kind(rb"\x89HDF\r\n\x1a\n", "an HDF5 file, as TensorFlow and Keras write", _OTHER),
    _kind(rb"\x08\x01\x12", "a TensorFlow SavedModel", _OTHER),
    # ir_version, then the producer's name, a domain, a version or the graph (protobuf).
    _kind(rb"\x08[\x02-\x20][\x12\x1a\x22\x28\x32\x3a\x42]", "an ONNX model", _OTHER),
    # A map of few keys whose first key is a string, such as a Flax checkpoint.
    _kind(
        rb"([\x81-\x8f]|\xde..|\xdf....)([\xa1-\xbf]|\xd9.)[A-Za-z_]",
        "a msgpack file, as Flax writes",
        _OTHER,
    ),
    _kind(rb"GGUF", "a GGUF file", _OTHER),
    _kind(rb"....TFL3", "a TensorFlow Lite model", _OTHER),
    _kind(rb"\x93NUMPY", "a NumPy array, not a model", _OTHER),
    _kind(rb"\x1f\x8b", "compressed by gzip", _UNPACK),
    _kind(rb"BZh[1-9]", "compressed by bzip2", _UNPACK),
    _kind(rb"\xfd7zXZ\x00", "compressed by xz", _UNPACK),
    _kind(rb"\x28\xb5\x2f\xfd", "compressed by zstd", _UNPACK),
    _kind(rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    _kind(rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    _kind(rb".{257}ustar", "a tar archive", _UNPACK),
)
_TEXT = re.compile(rb"[\t\r\n\x20-\x7e]+")


def check_stand_in(path: Path, *, may_be_empty: bool = False) -> None:
    """Checks that a file is not another kind of file under this name.

    Args:
        path: a file; a missing one is left to its reader to report.
        may_be_empty: whether an empty file is accepted.

    Raises:
        UserError: it is a Git LFS pointer, an error page, or empty.
    """
    head = _head(path)
    if head is not None:
        check_content(path, head, may_be_empty=may_be_empty)


def check_content(path: PathLike, head: bytes, *, may_be_empty: bool = False) -> None:
    """The check of `check_stand_in` for a file whose first bytes are already read.

    Args:
        path: names the file in an error.
        head: its first bytes, or all of a shorter file.
        may_be_empty: see `check_stand_in`.
    """
    if head:
        _refuse(path, head[:_HEAD], _ANY)
    elif not may_be_empty:
        raise UserError(f"{path} is empty; {_FETCH}")


def check_foreign_weights(path: Path) -> None:
    """Names the format of a weights file that no reader recognises.

    Raises:
        UserError: it is of a known other format, or text.
    """
    check_stand_in(path)
    head = _head(path)
    if not head:
        return
    _refuse(path, head, _WEIGHTS)
    if _TEXT.fullmatch(head):
        shown = " ".join(head.decode().split())[:_SHOWN]
        raise UserError(f"{path} is a text file ({shown!r}); {_FETCH}")


def _refuse(path: PathLike, head: bytes, kinds: tuple[Kind, ...]) -> None:
    for kind in kinds:
        if kind.pattern.match(head):
            raise UserError(f"{path} is {kind.what}; {kind.advice}")


def _head(path: Path) -> bytes | None:
    """The first bytes; None if it is not a readable file."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(_HEAD)
    except (OSError, ValueError):
        return None
