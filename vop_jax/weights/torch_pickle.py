"""Reads the pickle in a PyTorch file with an interpreter that only describes tensors.

A pickle is a program. It is never given to Python's unpickler: this interpreter knows
only the opcodes that PyTorch writes, looks up every name that the pickle calls in a
table of stand-ins, and imports nothing. Containers that the pickle builds are never
hashed, compared or printed, so every opcode takes about constant time, and the number
of opcodes is limited.
"""

import pickletools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from data_pipelines.files.array_bytes import MOST_AXES, is_possible, one_line

# PyTorch's storage classes -> dtype.
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
# A tensor takes 35 opcodes; the largest CLIP with its optimizer state takes 200,000.
_MOST_OPCODES = 300_000
# Names take longest. Each is written once and then referred to by number, except in
# TorchScript archives, which name the class of every module.
_MOST_NAMES = 20_000
# Longest name of a class or a storage, characters.
_LONGEST = 1000


class TensorEntry(NamedTuple):
    """Where a tensor is stored.

    Attributes:
        shape: of the tensor.
        dtype: of the storage.
        record: the storage's name in the archive.
        offset: of the first element, in elements.
        strides: in elements.
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


class Refused(Exception):
    """The file holds something that PyTorch never writes, or that is unsafe."""


class Module:
    """Stands for an object of a TorchScript class; holds its state."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: dict | None = None


class _Inert:
    """Stands for any value that neither is nor contains a tensor."""

    __slots__ = ()


class _Name:
    """A function or class that the pickle names.

    Args:
        call: what calling it returns, or None if it must not be called.
        dtype: of the storage that it names.
    """

    __slots__ = ("call", "dtype")

    def __init__(
        self, call: Callable[[tuple], Any] | None, dtype: np.dtype | None = None
    ):
        self.call, self.dtype = call, dtype


INERT = _Inert()


def read_pickle(data: bytes, find: Callable[[np.dtype, str, int], Storage]) -> Any:
    """Interprets a pickle.

    Args:
        data: the pickle.
        find: returns the storage of a dtype, a key and a number of elements, or raises
            `Refused`.

    Returns:
        Dictionaries (keys are strings or small integers), lists, tuples, strings,
        numbers, `TensorEntry`, `Module`; `INERT` for anything else.

    Raises:
        Refused: opcodes, names, keys or arguments that PyTorch does not write.
        ValueError: not a pickle.
    """
    machine = _Machine(find)
    with warnings.catch_warnings():
        # Of a stray backslash in a name, which is not among those that are allowed.
        warnings.simplefilter("ignore", DeprecationWarning)
        stopped = _run(machine, data)
    if stopped + 1 != len(data) or len(machine.stack) != 1 or machine.below:
        raise ValueError("its pickle does not end where it says")
    return machine.stack[0]


def _run(machine: "_Machine", data: bytes) -> int:
    """Runs the opcodes of a pickle; returns the place of the last."""
    stopped = -1
    for count, (opcode, argument, place) in enumerate(pickletools.genops(data)):
        act = _ACTS.get(opcode.name)
        if act is None:
            raise Refused(f"holds the pickle opcode {opcode.name}, which is refused")
        if count >= _MOST_OPCODES:
            raise Refused(f"describes its tensors in over {_MOST_OPCODES:,} steps")
        try:
            act(machine, argument)
        except (IndexError, KeyError):
            raise ValueError(f"its pickle reads a missing value at {place}") from None
        stopped = place or 0
    return stopped


class _Machine:
    """The state of the interpreter: stack, stacks below marks, and memo."""

    def __init__(self, find: Callable[[np.dtype, str, int], Storage]):
        self.find = find
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.names = 0

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def frozen(self, _: Any) -> None:
        self.since_mark()
        self.stack.append(INERT)

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def last(self, count: int) -> tuple:
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items

    def put(self, number: Any) -> None:
        self.memo[len(self.memo) if number is None else number] = self.stack[-1]

    def append(self, items: list[Any]) -> None:
        found = self.stack[-1]
        if type(found) is list:
            found.extend(items)
        elif found is not INERT:
            raise Refused("appends to what is not a list, which is refused")

    def set_items(self, items: list[Any]) -> None:
        found = self.stack[-1]
        if type(found) is not dict or len(items) % 2:
            raise Refused("sets items of what is not a dictionary, which is refused")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Nothing else: hashing a nested tuple or a chosen integer may take forever.
            plain = type(key) is str or (type(key) is int and abs(key) < 2**31)
            if not plain:
                raise Refused(
                    f"has {one_line(key)} as a key of a dictionary; save the "
                    "state_dict alone"
                )
            found[key] = value

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise Refused("names what is not text, which is refused")
        # They are joined below, and a long name could be repeated at every opcode.
        if len(module) + len(name) > _LONGEST:
            raise Refused(f"names {one_line(module)}, which is too long")
        self.names += 1
        if self.names > _MOST_NAMES:
            raise Refused(f"names more than {_MOST_NAMES:,} classes")
        whole = f"{module}.{name}"
        found = _NAMES.get(whole)
        if found is None and module.partition(".")[0] == "__torch__":
            found = _SCRIPTED
        if found is None:
            raise Refused(
                f"names {one_line(whole)}, which is refused; save the state_dict alone"
            )
        self.stack.append(found)

    def call(self, _: Any) -> None:
        function, arguments = self.last(2)
        if type(function) is not _Name or type(arguments) is not tuple:
            raise Refused("calls what is not a function, which is refused")
        if function.call is None:
            raise Refused("calls a class or a kind of storage, which is refused")
        self.stack.append(function.call(arguments))

    def new(self, _: Any) -> None:
        kind, _ = self.last(2)
        if kind is not _SCRIPTED:
            raise Refused("makes an object of a class, which is refused")
        self.stack.append(Module())

    def build(self, _: Any) -> None:
        found, state = self.stack[-2:]
        if isinstance(found, Module):
            if type(state) is dict:
                found.state = state
        # PyTorch sets version attributes on a dictionary, NumPy on its dtypes.
        elif type(found) is not dict and found is not INERT:
            raise Refused("sets the state of a function or value, which is refused")
        self.stack.pop()

    def refer(self, _: Any) -> None:
        pid = self.stack.pop()
        if type(pid) is not tuple or len(pid) != 5:
            raise Refused("refers to what is not a storage, which is refused")
        kind, storage, key, _, numel = pid
        dtype = storage.dtype if type(storage) is _Name else None
        if type(kind) is not str or kind != "storage" or dtype is None:
            raise Refused(f"refers to {one_line(kind)!r}, which is refused")
        if type(key) is not str or len(key) > _LONGEST or type(numel) is not int:
            raise Refused("refers to a storage without a name and a size")
        self.stack.append(self.find(dtype, key, numel))


def _tensor(arguments: tuple) -> TensorEntry:
    """Stands for PyTorch's function that makes a tensor from a storage."""
    if not 4 <= len(arguments) <= 8:
        raise Refused("describes a tensor without its parts")
    storage, offset, shape, strides = arguments[:4]
    flat = type(shape) is tuple and type(strides) is tuple
    if type(storage) is not Storage or not flat or len(shape) != len(strides):
        raise Refused("describes a tensor without a storage")
    # Checked before its elements: all tensors may share one long tuple.
    if len(shape) > MOST_AXES:
        raise Refused(f"describes a tensor of shape with {len(shape)} axes")
    numbers = (offset, *shape, *strides)
    if any(type(x) is not int or not 0 <= x < 2**63 for x in numbers):
        raise Refused("describes a tensor of shape or strides that are invalid")
    last, count = offset, 1
    for size, stride in zip(shape, strides, strict=True):
        last, count = last + (size - 1) * stride, count * size
    # More elements than the storage has would repeat some: a small file could fill RAM.
    if count and (last >= storage.numel or count > storage.numel):
        raise Refused(
            f"describes a tensor of shape {_few(shape)}, more than the "
            f"{storage.numel:,} elements of {storage.record}"
        )
    if not is_possible(shape):
        raise Refused(f"describes a tensor of shape {_few(shape)}, which is invalid")
    if offset > storage.numel:
        raise Refused(f"describes a tensor beyond the end of {storage.record}")
    return TensorEntry(shape, storage.dtype, storage.record, offset, strides)


def _few(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape[:8]))}{', ...' if len(shape) > 8 else ''}]"


def _first(arguments: tuple) -> Any:
    """Stands for functions that return their argument, converted."""
    return arguments[0]


def _nothing(arguments: tuple) -> Any:
    del arguments
    return INERT


def _dictionary(arguments: tuple) -> dict:
    if arguments:
        raise Refused("makes a dictionary of something else, which is refused")
    return {}


_SCRIPTED = _Name(None)
_CALLS: dict[str, Callable[[tuple], Any]] = {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.Size": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    **{
        f"torch.jit._pickle.build_{kind}list": _nothing
        for kind in ("int", "double", "bool", "tensor")
    },
    "torch.device": _nothing,
    # Sets, bytes and NumPy scalars, which occur beside the weights in checkpoints.
    **{
        f"{module}.{name}": _nothing
        for module in ("__builtin__", "builtins")
        for name in ("set", "frozenset", "bytearray")
    },
    "_codecs.encode": _nothing,
    "numpy.dtype": _nothing,
    "numpy.core.multiarray.scalar": _nothing,
    "numpy._core.multiarray.scalar": _nothing,
}
# Every name that a pickle may use, besides `__torch__.*`.
_NAMES: dict[str, Any] = (
    {name: _Name(call) for name, call in _CALLS.items()}
    | {f"torch.{name}": _Name(None, dtype) for name, dtype in DTYPES.items()}
    | {
        f"torch.{name}": INERT
        for name in (
            *("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16"),
            *("int32", "int64", "bool", "strided", "contiguous_format"),
        )
    }
)
_ACTS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, x: None),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "NONE": lambda m, x: m.push(None),
    "NEWTRUE": lambda m, x: m.push(True),
    "NEWFALSE": lambda m, x: m.push(False),
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
            *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        ),
        _Machine.push,
    ),
    **dict.fromkeys(
        ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_SET"),
        lambda m, x: m.push(INERT),
    ),
    "EMPTY_DICT": lambda m, x: m.push({}),
    "EMPTY_LIST": lambda m, x: m.push([]),
    "EMPTY_TUPLE": lambda m, x: m.push(()),
    "TUPLE": lambda m, x: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, x: m.push(m.last(1)),
    "TUPLE2": lambda m, x: m.push(m.last(2)),
    "TUPLE3": lambda m, x: m.push(m.last(3)),
    "APPEND": lambda m, x: m.append([m.stack.pop()]),
    "APPENDS": lambda m, x: m.append(m.since_mark()),
    "ADDITEMS": lambda m, x: m.append(m.since_mark()),
    "FROZENSET": _Machine.frozen,
    "SETITEM": lambda m, x: m.set_items(list(m.last(2))),
    "SETITEMS": lambda m, x: m.set_items(m.since_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, x: m.push(m.memo[x])),
    "GLOBAL": lambda m, x: m.name(*x.split(" ", 1)),
    "STACK_GLOBAL": lambda m, x: m.name(*m.last(2)),
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.refer,
}
