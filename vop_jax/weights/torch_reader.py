"""Reads PyTorch's zip files without PyTorch.

Such a file is a zip archive: a pickle that describes tensors, and one record of raw
bytes per storage. `torch_pickle` reads the pickle without running code, `zip_records`
reads the records without trusting stated sizes.
"""

import collections
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipelines.console.errors import UserError
from data_pipelines.files.array_bytes import (
    MOST_TENSORS,
    is_plain_name,
    one_line,
    open_regular,
    read_start,
)
from data_pipelines.files.zip_records import BadZip, ZipRecords
from vop_jax.weights.torch_pickle import (
    Module,
    Refused,
    Storage,
    TensorEntry,
    read_pickle,
)

# Keys under which training checkpoints store the weights, in order of preference.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_LONGEST_PICKLE = 64 << 20
_DEEPEST = 64
# How often all elements of the storages may be used by tensors. The authors' release
# of VoP holds its CLIP twice; without a limit one storage could be every layer.
_MOST_USES = 4
# Bytes of records that are kept for the next tensors of them, besides the last one.
_MOST_HELD = 16 << 20


def is_torch_zip(path: Path) -> bool:
    """Whether a file is a zip archive, as PyTorch's are since 1.6."""
    return read_start(path, 4) == b"PK\x03\x04"


class TorchFile:
    """One file, opened; its tensors are read one at a time.

    Attributes:
        tensors: dotted name -> where the tensor is stored, of the weights alone.
        scripted: whether it is a TorchScript archive.
        wrapped: the key of a training checkpoint under which the weights are stored, or
            empty.

    Raises:
        UserError: missing, damaged, not PyTorch's, or holding more than tensors.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file = open_regular(path)
        self._held: dict[str, bytes] = {}
        try:
            self._records = self._open(self._file)
        except (BadZip, Refused) as error:
            self.close()
            raise UserError(f"{path} {error}") from None
        # The pickle is invalid or truncated, or the disk fails.
        except (ValueError, OSError) as error:
            self.close()
            raise UserError(
                f"{path} is damaged ({one_line(error)}); fetch it again"
            ) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "TorchFile":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def read(self, name: str) -> np.ndarray:
        """Reads a tensor, as a view of its record's bytes.

        Raises:
            UserError: the record is damaged.
        """
        entry = self.tensors[name]
        # Tensors may share one storage, which is then read and checked once.
        if entry.record not in self._held:
            self._hold(entry.record)
        strides = [stride * entry.dtype.itemsize for stride in entry.strides]
        try:
            raw = np.frombuffer(self._held[entry.record], entry.dtype)
            # NumPy checks shape and strides against the number of bytes.
            return np.ndarray(
                entry.shape,
                entry.dtype,
                raw,
                entry.offset * entry.dtype.itemsize,
                strides,
            )
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self._path}: {name} is damaged ({one_line(error)}); fetch it again"
            ) from None

    def _hold(self, record: str) -> None:
        """Reads a record, and keeps those of before as long as they are small."""
        try:
            content = self._records.read(record)
        except BadZip as error:
            raise UserError(f"{self._path} {error}") from None
        except OSError as error:
            raise UserError(f"{self._path} cannot be read ({error.strerror})") from None
        if len(content) + sum(map(len, self._held.values())) > _MOST_HELD:
            self._held.clear()
        self._held[record] = content

    def _open(self, file: BinaryIO) -> ZipRecords:
        # Check the file type.
        head = file.read(4)
        if head[:2] == b"\x80\x02":
            raise Refused(
                "is in PyTorch's format from before 1.6; in PyTorch, load it with "
                "weights_only=True and save it again"
            )
        if head != b"PK\x03\x04":
            raise Refused(
                "is not a PyTorch file; use a state dictionary or a CLIP folder"
            )
        # Find the archive's root folder and check its byte order.
        records = ZipRecords(file)
        sizes = records.sizes
        roots = sorted({x.split("/")[0] for x in sizes if x.endswith("/data.pkl")})
        root = next((x for x in roots if f"{x}/data.pkl" in sizes), None)
        if root is None:
            first = one_line(min(sizes, default="nothing", key=len))[:60]
            raise Refused(
                f"is a zip file, but none of PyTorch's; it holds no data.pkl ({first} "
                "instead); unpack it and use what is in it"
            )
        order = f"{root}/byteorder"
        if order in sizes and records.read(order).strip() != b"little":
            raise Refused("was saved on a big-endian machine; save it again on another")
        pickled = f"{root}/data.pkl"
        if sizes[pickled] > _LONGEST_PICKLE:
            raise Refused(
                f"describes its tensors in {sizes[pickled]:,} bytes, too many"
            )
        self.scripted = f"{root}/constants.pkl" in sizes

        def find(dtype: np.dtype, key: str, numel: int) -> Storage:
            # A TorchScript archive stores its data under this name as well.
            name = f"{root}/data/{key}"
            if name not in sizes:
                raise Refused(f"lacks the record {one_line(name)}; fetch it again")
            if not records.is_stored(name):
                raise Refused(
                    f"holds {name!r} compressed or encrypted, as PyTorch never does; "
                    "fetch it again"
                )
            if numel * dtype.itemsize != sizes[name]:
                raise Refused(
                    f"states {one_line(numel)} elements of {dtype} in {name}, which "
                    f"has {sizes[name]:,} bytes"
                )
            return Storage(dtype, name, numel)

        # Interpret the pickle and select the weights of a training checkpoint.
        tree = read_pickle(records.read(pickled), find)
        self.wrapped = ""
        if isinstance(tree, dict):
            inner = [key for key in _WRAPPERS if isinstance(tree.get(key), dict)]
            if inner:
                self.wrapped = inner[0]
                tree = tree[self.wrapped]
        self.tensors = _flatten(tree)
        _check_uses(self.tensors, sizes)
        return records


def _check_uses(tensors: dict[str, TensorEntry], sizes: dict[str, int]) -> None:
    """Checks that the tensors are not many times larger than what stores them."""
    held = sum(sizes[name] for name in {x.record for x in tensors.values()})
    used = sum(math.prod(x.shape) * x.dtype.itemsize for x in tensors.values())
    if used > _MOST_USES * held:
        raise Refused(
            f"describes tensors of {used:,} bytes in storages of {held:,}, so that "
            "they share what they hold; save the state_dict of one model"
        )


def _flatten(tree: Any) -> dict[str, TensorEntry]:
    """Flattens nested dictionaries and objects to tensors by dotted names."""
    tensors: dict[str, TensorEntry] = {}
    seen: set[int] = set()
    waiting = collections.deque([("", tree, 0)])
    while waiting:
        name, value, depth = waiting.popleft()
        if isinstance(value, TensorEntry):
            if tensors.setdefault(name, value) != value:
                raise Refused(f"holds two tensors named {name!r}")
            if len(tensors) > MOST_TENSORS:
                raise Refused(f"holds more than {MOST_TENSORS:,} tensors")
            continue
        inner = _inner(value)
        # Each container is visited once, which also ends cycles.
        if inner is None or id(inner) in seen:
            continue
        seen.add(id(inner))
        if depth > _DEEPEST:
            raise Refused(f"nests its tensors more than {_DEEPEST} deep")
        for key, child in inner.items():
            if not isinstance(child, TensorEntry) and _inner(child) is None:
                continue
            whole = f"{name}.{key}" if name else str(key)
            if not is_plain_name(whole):
                raise Refused(
                    f"holds a tensor named {one_line(whole)!r}, which is refused"
                )
            waiting.append((whole, child, depth + 1))
    return tensors


def _inner(value: Any) -> dict | None:
    """The entries of a dictionary or an object that may hold tensors."""
    inner = value.state if isinstance(value, Module) else value
    return inner if isinstance(inner, dict) else None
