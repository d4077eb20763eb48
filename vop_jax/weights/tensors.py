"""Named tensors in files of any format: read one at a time, written streaming."""

import functools
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import MaxLen
from safetensors import SafetensorError, safe_open
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.array_bytes import (
    MOST_TENSORS,
    check_weights,
    is_plain_name,
    is_possible,
    one_line,
    open_regular,
    read_start,
)
from data_pipelines.files.json_files import Matches, read_described, shown
from data_pipelines.files.replacing import replacing_file
from data_pipelines.files.stand_ins import check_foreign_weights, check_stand_in
from vop_jax.weights.file_names import FILE_NAMES
from vop_jax.weights.npz_reader import NpzFile, is_npz
from vop_jax.weights.torch_reader import TorchFile, is_torch_zip

# Most files of one model.
_MOST_SHARDS = 1_000
# Longest header of a safetensors file, bytes; tens of thousands of tensors take less.
_LONGEST_HEADER = 4 << 20
# Names of the dtypes of weights in safetensors.
_FLOATS = ("F16", "BF16", "F32", "F64")
_FOREIGN_SUFFIXES = (".msgpack", ".h5", ".onnx", ".pb", ".gguf", ".tflite")


class Tensor(NamedTuple):
    """One named tensor: its shape, and a function that reads it."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def tensor_of(value: np.ndarray) -> Tensor:
    """Wraps an array in memory."""
    return Tensor(value.shape, lambda: value)


class Weights(NamedTuple):
    """The tensors of one model.

    Attributes:
        path: the file, or the index of several.
        files: all files of the model.
        tensors: name -> tensor, each read on demand.
        scripted: whether the file is a TorchScript archive.
        wrapped: the key of a training checkpoint under which the weights are stored, or
            empty.
    """

    path: Path
    files: tuple[Path, ...]
    tensors: dict[str, Tensor]
    scripted: bool = False
    wrapped: str = ""


_TAKEN = (
    "pass a file of weights, the folder of a run or of a CLIP, or the name of a model "
    "such as demo or vit_b32"
)


def find_weights(path: Path) -> Path:
    """Finds the weights file of a folder; a path of a file is returned as it is.

    Raises:
        UserError: the path does not exist, or the folder has no known weights file.
    """
    # The functions of `os.path` are false for what may not be looked at.
    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        # A pipe or a device is refused here, before anything waits for it.
        if os.path.lexists(path):
            open_regular(path).close()
        raise UserError(f"{path} does not exist; {_TAKEN}")
    for name in FILE_NAMES:
        if os.path.isfile(path / name):
            return path / name
    # The folder may hold weights in another format only, which the error then names.
    try:
        others = sorted(x for x in path.iterdir() if x.suffix in _FOREIGN_SUFFIXES)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    for other in others:
        check_foreign_weights(other)
    raise UserError(
        f"{path} holds no weights: none of {', '.join(FILE_NAMES)}; {_TAKEN}"
    )


def open_weights(path: Path, stack: ExitStack) -> Weights:
    """Opens a file, or a folder's weights; the format is detected from the content.

    Args:
        path: a safetensors file, a PyTorch zip file, NumPy's `.npz`, an index of one
            of the first two, or a folder.
        stack: closes the files at the end.

    Raises:
        UserError: missing, damaged, or of another format.
    """
    path = find_weights(path)
    check_stand_in(path)
    if path.suffix == ".json":
        return _open_shards(path, stack)
    if is_npz(path, read_start(path, 2)):
        arrays = NpzFile(path, stack)
        tensors = {
            name: _checked(
                Tensor(shape, functools.partial(arrays.read, name)), path, name
            )
            for name, shape in arrays.shapes.items()
        }
        return Weights(path, (path,), tensors)
    if is_torch_zip(path):
        file: TorchFile = stack.enter_context(TorchFile(path))
        tensors = {
            name: _checked(
                Tensor(entry.shape, functools.partial(file.read, name)), path, name
            )
            for name, entry in file.tensors.items()
        }
        return Weights(path, (path,), tensors, file.scripted, file.wrapped)
    head = read_start(path, 9)
    if head[8:9] == b"{":
        return Weights(path, (path,), open_safetensors(path, stack)[0])
    check_foreign_weights(path)
    # For any other file the reader of PyTorch's files has the best error message.
    TorchFile(path).close()
    raise UserError(f"{path} is neither a safetensors nor a PyTorch file")


def open_safetensors(
    path: Path, stack: ExitStack
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Opens a safetensors file.

    Args:
        path: the file.
        stack: closes it at the end.

    Returns:
        The tensors by name, checked to be finite floating-point numbers when they are
        read; and the file's metadata.

    Raises:
        UserError: missing, damaged, or with names or shapes that no model has.
    """
    header = _header(path)
    with _library(path):
        file = stack.enter_context(safe_open(path, framework="numpy"))
        json.loads(header, object_pairs_hook=_once)
        metadata = file.metadata() or {}
        # `safe_open` is not a mapping: it only has the method `keys`.
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        found = {
            name: (tuple(part.get_shape()), part.get_dtype())
            for name, part in slices.items()
        }
    if len(found) > MOST_TENSORS:
        raise UserError(f"{path} holds more than {MOST_TENSORS:,} tensors")
    for name, (shape, _) in found.items():
        if not is_plain_name(name) or not is_possible(shape):
            raise UserError(
                f"{path} holds a tensor {one_line(name)!r} of {len(shape)} axes, whose "
                "name or shape no model has; fetch it again"
            )

    def read(name: str) -> np.ndarray:
        if found[name][1] not in _FLOATS:
            raise UserError(
                f"{path}: {name} holds {found[name][1]}, not floating-point numbers "
                "of 16 bits or more; save the weights as float32"
            )
        with _library(path):
            return file.get_tensor(name)

    tensors = {
        name: _checked(Tensor(shape, functools.partial(read, name)), path, name)
        for name, (shape, _) in found.items()
    }
    return tensors, metadata


def _checked(tensor: Tensor, path: Path, name: str) -> Tensor:
    """A tensor whose values are checked when it is read."""
    return Tensor(tensor.shape, lambda: check_weights(tensor.read(), f"{path}: {name}"))


def _header(path: Path) -> bytes:
    """Reads the header of a safetensors file; the library would accept 100 MB."""
    with open_regular(path) as file:
        head = file.read(8)
        size = int.from_bytes(head, "little")
        if len(head) < 8 or size > _LONGEST_HEADER:
            raise UserError(
                f"{path} is damaged (a header of {size:,} bytes); fetch it again"
            )
        return file.read(size)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Rejects duplicate names, of which the library would use the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it holds two tensors of one name")
    return found


@contextmanager
def _library(path: Path) -> Iterator[None]:
    """Turns errors of the library, including panics, into one line."""
    try:
        yield
    except BaseException as error:
        # A Rust panic is not an `Exception`, and its class has no public name.
        panic = type(error).__name__ == "PanicException"
        if not panic and not isinstance(error, SafetensorError | OSError | ValueError):
            raise
        raise UserError(
            f"{path} is damaged ({one_line(error)}); fetch it again"
        ) from None


class Index(TypedDict):
    """The fields of an index that are read: the file of each tensor."""

    weight_map: dict[str, Annotated[str, MaxLen(255), Matches("^[A-Za-z0-9_.-]+$")]]


def _open_shards(index: Path, stack: ExitStack) -> Weights:
    """Opens a model in several files; the index names the file of each tensor."""
    places = read_described(index, Index)["weight_map"]
    shards = sorted(set(places.values()))
    if len(shards) > _MOST_SHARDS:
        raise UserError(f"{index} names {len(shards):,} files, more than any model has")
    tensors: dict[str, Tensor] = {}
    files = []
    for shard in shards:
        # An index that names an index could refer to itself without end.
        if shard.endswith(".json"):
            raise UserError(f"{index} names {shard}, which is not a file of weights")
        if not (index.parent / shard).is_file():
            raise UserError(f"{index.parent / shard} is missing, but {index} names it")
        part = open_weights(index.parent / shard, stack)
        files.append(part.path)
        for name, tensor in part.tensors.items():
            if places.get(name) == shard:
                tensors[name] = tensor
    absent = sorted(places.keys() - tensors.keys())
    if absent:
        raise UserError(
            f"{index} names {shown(absent[0], repr)}, which {places[absent[0]]} lacks"
        )
    return Weights(index, tuple(files), tensors)


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: str = "F32",
    on_written: Callable[[int], Any] = lambda size: None,
) -> None:
    """Writes a safetensors file with at most one tensor in memory.

    The library's own writer needs all of them at once. The file is written atomically.

    Args:
        path: the file.
        tensors: by name; of any real type.
        dtype: the stored dtype, `F32` (exact for shorter types) or `F16`.
        on_written: called with the number of bytes after each tensor.
    """
    kind = np.dtype({"F32": "<f4", "F16": "<f2"}[dtype])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        size = kind.itemsize * math.prod(tensor.shape)
        shape, where = list(tensor.shape), [offset, offset + size]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": where}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            value = np.asarray(tensor.read(), kind, order="C")
            if value.shape != tensor.shape:
                raise ValueError(f"{name}: {value.shape} is not {tensor.shape}")
            file.write(value.reshape(-1).data)
            on_written(value.nbytes)
