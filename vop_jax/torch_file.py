"""PyTorch's zip files, read without PyTorch.

Such a file is a zip archive: a pickle that describes tensors, and one record of raw
bytes for each storage. A pickle is a program, so this one is never run as such: its
opcodes are checked against a list first, and every class it names is looked up in a
table of inert stand-ins, never imported. All sizes are held against the file's own.
"""

import collections
import io
import math
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from data_pipelines.errors import UserError

# PyTorch's names of its storages -> what they hold.
DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# Keys under which a training checkpoint keeps its weights, the first that is there.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# Everything that saving dictionaries, lists, numbers and tensors makes use of.
_OPCODES = re.compile(
    "PROTO|FRAME|STOP|MARK|POP|NONE|NEWTRUE|NEWFALSE|BININT[12]?|LONG1|BINFLOAT"
    "|(SHORT_)?BINUNICODE8?|EMPTY_(DICT|LIST|TUPLE|SET)|TUPLE[123]?|LIST|DICT|APPENDS?"
    "|SETITEMS?|ADDITEMS|(LONG_)?BIN(PUT|GET)|MEMOIZE|(STACK_)?GLOBAL|REDUCE|NEWOBJ"
    "|BUILD|BINPERSID"
)
_LONGEST_PICKLE = 64 << 20
_DEEPEST = 64
_MOST_AXES = 16


class TensorEntry(NamedTuple):
    """Where a tensor lies.

    Attributes:
        shape: of the tensor.
        dtype: of the storage.
        record: the storage's name in the archive.
        offset: of the first element, elements.
        strides: elements.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    record: str
    offset: int
    strides: tuple[int, ...]


class Storage(NamedTuple):
    """A storage that a pickle refers to: its type, record and number of elements."""

    dtype: np.dtype
    record: str
    numel: int


class _Refused(Exception):
    """The file holds something it has no business to hold."""


class _Inert:
    """Stands for an object of a class that is never imported; holds its state."""

    state: Any = None

    def __init__(self, *arguments: Any):
        del arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dictionary(dict):
    """Stands for `OrderedDict`; PyTorch hangs versions of modules on its own."""

    def __setstate__(self, state: Any) -> None:
        del state


class _StandIn:
    """Stands for a function, or for a kind of storage; a pickle cannot change it."""

    __slots__ = ("_call", "dtype")

    def __init__(self, call: Callable[..., Any] | None, dtype: np.dtype | None = None):
        self._call, self.dtype = call, dtype

    def __call__(self, *arguments: Any) -> Any:
        if self._call is None:
            raise _Refused("calls a kind of storage, which is refused")
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("sets the state of a function, which is refused")


def is_torch_zip(path: Path) -> bool:
    """Whether a file is a zip archive, as PyTorch's are since 1.6."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


class TorchFile:
    """One file, opened; its tensors are read one at a time.

    Attributes:
        tensors: dotted name -> where it lies, of the weights alone.
        scripted: whether it is a TorchScript archive.
        wrapped: the key of a larger checkpoint that the weights stood under, or empty.

    Raises:
        UserError: missing, damaged, not of PyTorch, or holding more than tensors.
    """

    def __init__(self, path: Path):
        self._path = path
        self._archive: zipfile.ZipFile | None = None
        try:
            self._open()
        except _Refused as error:
            self.close()
            raise UserError(f"{path} {error}") from None
        except (
            zipfile.BadZipFile,
            pickle.UnpicklingError,
            struct.error,
            # What a pickle that is no pickle, or a hostile one, makes of the machine.
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            EOFError,
            OverflowError,
            MemoryError,
            RecursionError,
            NotImplementedError,
        ) as error:
            self.close()
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"{path} is damaged ({reason}); fetch it again") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "TorchFile":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        if self._archive is not None:
            self._archive.close()

    def read(self, name: str) -> np.ndarray:
        """A tensor by its name; the checksum of its record is checked.

        Raises:
            UserError: the record is damaged.
        """
        entry = self.tensors[name]
        raw = np.frombuffer(self._record(entry.record), entry.dtype)
        strides = [stride * entry.dtype.itemsize for stride in entry.strides]
        # The bounds were checked when the file was opened.
        return np.lib.stride_tricks.as_strided(
            raw[entry.offset :], entry.shape, strides, writeable=False
        )

    def _record(self, name: str) -> bytes:
        assert self._archive is not None
        info = self._archive.getinfo(name)
        # The code of a scripted archive is compressed, and never looked at.
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UserError(
                f"{self._path} holds {name!r} compressed or encrypted, as PyTorch "
                "never does; fetch it again"
            )
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            raise UserError(
                f"{self._path} is damaged ({error}); fetch it again"
            ) from None

    def _open(self) -> None:
        if not is_torch_zip(self._path):
            with self._path.open("rb") as file:
                head = file.read(2)
            if head == b"\x80\x02":
                raise _Refused(
                    "is in PyTorch's format from before 1.6; in PyTorch, load it with "
                    "weights_only=True and save it again"
                )
            raise _Refused(
                "is no PyTorch file; give a state dictionary or a CLIP folder"
            )
        self._archive = zipfile.ZipFile(self._path)
        records = _records(self._archive, self._path.stat().st_size)
        roots = {name.split("/")[0] for name in records}
        root = next((x for x in sorted(roots) if f"{x}/data.pkl" in records), None)
        if root is None:
            raise _Refused("is a zip file, but none of PyTorch's; it holds no data.pkl")
        order = records.get(f"{root}/byteorder")
        if order and self._record(order.filename).strip() != b"little":
            raise _Refused(
                "was saved on a big-endian machine; save it again on another"
            )
        info = records[f"{root}/data.pkl"]
        if info.file_size > _LONGEST_PICKLE:
            raise _Refused(
                f"describes its tensors in {info.file_size:,} bytes, too many"
            )
        self.scripted = f"{root}/constants.pkl" in records
        # A scripted archive keeps its storages under the pickle's own name as well.
        tree = _load(self._record(info.filename), records, f"{root}/data/")
        self.wrapped = ""
        if isinstance(tree, dict):
            inner = [key for key in _WRAPPERS if isinstance(tree.get(key), dict)]
            if inner:
                self.wrapped = inner[0]
                tree = tree[self.wrapped]
        self.tensors = _flatten(tree)


def _records(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """The archive's records by name; anything but plain ones is refused."""
    records: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or name.startswith("/") or "\\" in name or ":" in parts[0]:
            raise _Refused(f"holds a record named {name!r}, which no PyTorch file does")
        if name in records:
            raise _Refused(f"holds two records named {name!r}")
        records[name] = info
    # Records that lie over each other would be more than the file has.
    if sum(info.compress_size for info in records.values()) > file_size:
        raise _Refused("states more bytes than it has")
    return records


def _check_opcodes(data: bytes) -> None:
    """Makes sure that a pickle holds nothing but what PyTorch writes."""
    for opcode, argument, _ in pickletools.genops(data):
        if not _OPCODES.fullmatch(opcode.name):
            raise _Refused(f"holds the pickle opcode {opcode.name}, which is refused")
        # The unpickler would make room for that many objects.
        if "LONG_BIN" in opcode.name and int(argument or 0) > len(data):
            raise _Refused(f"numbers an object {argument:,}, more than it can hold")


def _load(data: bytes, records: Mapping[str, zipfile.ZipInfo], prefix: str) -> Any:
    """What a pickle describes: dictionaries, lists, numbers, entries, stand-ins."""
    _check_opcodes(data)

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = _GLOBALS.get(f"{module}.{name}")
            if found is not None:
                return found
            if module == "torch" and name in DTYPES:
                return _StandIn(None, DTYPES[name])
            if module.split(".")[0] == "__torch__":
                return type("Scripted", (_Inert,), {})
            raise _Refused(
                f"names {module}.{name}, which is refused; save the state_dict alone"
            )

        def persistent_load(self, pid: Any) -> Storage:
            kind, storage, key, _, numel = pid
            dtype = getattr(storage, "dtype", None)
            if kind != "storage" or not isinstance(storage, _StandIn) or dtype is None:
                raise _Refused(f"refers to {kind!r}, which is refused")
            info = records.get(f"{prefix}{key}")
            if info is None:
                raise _Refused(f"lacks the record {prefix}{key}; fetch it again")
            if type(numel) is not int or numel * dtype.itemsize != info.file_size:
                raise _Refused(
                    f"states {numel} numbers of {dtype} in {info.filename}, which has "
                    f"{info.file_size:,} bytes"
                )
            return Storage(dtype, info.filename, numel)

    return Reader(io.BytesIO(data)).load()


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any
) -> TensorEntry:
    """Stands for PyTorch's function that makes a tensor of a storage."""
    del rest
    numbers = [offset, *shape, *strides]
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise _Refused("describes a tensor without a storage")
    if any(type(x) is not int or x < 0 for x in numbers) or len(shape) > _MOST_AXES:
        raise _Refused(f"describes a tensor of shape {shape} and strides {strides}")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    count = math.prod(shape)
    # More numbers than there are would be one number many times over: a bomb.
    if count and (last >= storage.numel or count > storage.numel):
        raise _Refused(
            f"describes a tensor of shape {list(shape)}, more than the "
            f"{storage.numel:,} numbers of {storage.record}"
        )
    if offset > storage.numel:
        raise _Refused(f"describes a tensor behind the end of {storage.record}")
    return TensorEntry(
        tuple(shape), storage.dtype, storage.record, offset, tuple(strides)
    )


def _parameter(value: Any, *rest: Any) -> Any:
    """Stands for PyTorch's function that makes a parameter of a tensor."""
    del rest
    return value


# The whole of what a pickle may call; `torch.*Storage` and `__torch__.*` aside.
_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _Dictionary,
    "torch._utils._rebuild_tensor_v2": _StandIn(_tensor),
    "torch._utils._rebuild_parameter": _StandIn(_parameter),
    "torch.nn.parameter.Parameter": _StandIn(_parameter),
    "torch.Size": _StandIn(tuple),
}


def _flatten(tree: Any) -> dict[str, TensorEntry]:
    """The tensors of nested dictionaries and objects by their dotted names."""
    tensors: dict[str, TensorEntry] = {}
    seen: set[int] = set()
    waiting = collections.deque([("", tree, 0)])
    while waiting:
        name, value, depth = waiting.popleft()
        if isinstance(value, TensorEntry):
            if tensors.setdefault(name, value) != value:
                raise _Refused(f"holds two tensors named {name!r}")
            continue
        inner = value.state if isinstance(value, _Inert) else value
        # No model's tree goes round, and none holds its modules twice over.
        if not isinstance(inner, dict) or id(inner) in seen:
            continue
        seen.add(id(inner))
        if depth > _DEEPEST:
            raise _Refused(f"nests its tensors more than {_DEEPEST} deep")
        for key, child in inner.items():
            waiting.append((f"{name}.{key}" if name else str(key), child, depth + 1))
    return tensors
