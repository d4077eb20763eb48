"""Writes PyTorch's zip files without PyTorch, see `torch_reader`."""

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from data_pipelines.files.replacing import replacing_file
from vop_jax.weights.torch_pickle import DTYPES, Storage, TensorEntry

_ALIGNMENT = 64


class _Global(NamedTuple):
    """A name that is written into a pickle without being imported."""

    module: str
    name: str


class _Call(NamedTuple):
    """A call that is written into a pickle."""

    function: _Global
    arguments: tuple


# Python's pickler in C cannot write a name without importing it.
_Pickler: Any = pickle._Pickler  # pyright: ignore


class _Writer(_Pickler):
    """Writes tensors as PyTorch does."""

    dispatch: ClassVar[Any] = dict(_Pickler.dispatch)

    def persistent_id(self, obj: Any) -> Any:
        """Storages are written as references, not inline."""
        if not isinstance(obj, Storage):
            return None
        kind = next(name for name, dtype in DTYPES.items() if dtype == obj.dtype)
        return ("storage", _Global("torch", kind), obj.record, "cpu", obj.numel)

    def save_name(self, obj: _Global) -> None:
        """Writes the opcode that names a function or class."""
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    def save_call(self, obj: _Call) -> None:
        """Writes a function, its arguments, and the opcode that calls it."""
        self.save(obj.function)
        self.save(obj.arguments)
        self.write(pickle.REDUCE)

    def save_tensor(self, obj: TensorEntry) -> None:
        """Writes a call of the function that makes a tensor from a storage."""
        storage = Storage(obj.dtype, obj.record, math.prod(obj.shape))
        hooks = _Call(_Global("collections", "OrderedDict"), ())
        arguments = (storage, obj.offset, obj.shape, obj.strides, False, hooks)
        self.save(_Call(_Global("torch._utils", "_rebuild_tensor_v2"), arguments))

    dispatch[_Global] = save_name
    dispatch[_Call] = save_call
    dispatch[TensorEntry] = save_tensor


def write_torch(
    path: Path,
    entries: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    read: Callable[[str], np.ndarray],
    wrap: str = "",
) -> None:
    """Writes a state dictionary that `torch.load(path, weights_only=True)` reads.

    One tensor is in memory at a time. The file is written atomically.

    Args:
        path: the file.
        entries: name -> shape and type.
        read: returns a tensor by its name, of that shape and type.
        wrap: the key of an enclosing dictionary, or empty.
    """
    tree: dict[str, Any] = {}
    for number, (name, (shape, dtype)) in enumerate(entries.items()):
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        tree[name] = TensorEntry(tuple(shape), dtype, str(number), 0, strides)
    buffer = io.BytesIO()
    _Writer(buffer, protocol=2).dump({wrap: tree} if wrap else tree)
    root = path.stem
    with (
        replacing_file(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        archive.writestr(f"{root}/data.pkl", buffer.getvalue())
        archive.writestr(f"{root}/byteorder", "little")
        for number, name in enumerate(entries):
            value = np.asarray(read(name), entries[name][1], order="C")
            if value.shape != tuple(entries[name][0]):
                raise ValueError(f"{name}: {value.shape} is not {entries[name][0]}")
            with archive.open(
                _aligned(archive, f"{root}/data/{number}"), "w", force_zip64=True
            ) as record:
                record.write(value.reshape(-1).view(np.uint8).data)
        archive.writestr(f"{root}/version", "3\n")


def _aligned(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """A record whose bytes are aligned to 64, so that they can be memory-mapped."""
    info = zipfile.ZipInfo(name)
    # The header: 30 bytes, the name, 20 bytes for 64-bit sizes, then padding.
    assert archive.fp is not None
    begin = archive.fp.tell() + 30 + len(name.encode()) + 20 + 4
    filling = -begin % _ALIGNMENT
    info.extra = struct.pack("<HH", 0x4246, filling) + b"Z" * filling
    return info
