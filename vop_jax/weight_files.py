"""Named tensors on disk, whatever holds them: read one at a time, written streaming."""

import functools
import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from data_pipelines.errors import UserError
from vop_jax.torch_file import TorchFile, is_torch_zip

# What a folder's weights may be called, the first that is there: Hugging Face's names,
# then open_clip's.
WEIGHTS = "model.safetensors"
FILE_NAMES = (
    WEIGHTS,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)


class Tensor(NamedTuple):
    """One named tensor: its shape, and how to get it as a numpy array."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def tensor_of(value: np.ndarray) -> Tensor:
    """An array in memory as a tensor."""
    return Tensor(value.shape, lambda: value)


class Weights(NamedTuple):
    """The tensors of one model.

    Attributes:
        path: the file, or the index of several.
        files: all files there are.
        tensors: name -> tensor; nothing is read before it is asked for.
        scripted: whether the file is a TorchScript archive.
        wrapped: the key of a larger checkpoint that the weights stood under, or empty.
    """

    path: Path
    files: tuple[Path, ...]
    tensors: dict[str, Tensor]
    scripted: bool = False
    wrapped: str = ""


def find_weights(path: Path) -> Path:
    """The file of a folder that holds its weights; a file is itself.

    Raises:
        UserError: there is nothing, or nothing of a name that is known.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path} does not exist")
    for name in FILE_NAMES:
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path} holds no weights: none of {', '.join(FILE_NAMES)}")


def open_weights(path: Path, stack: ExitStack) -> Weights:
    """Opens a file, or a folder's weights, by what is in it.

    Args:
        path: a safetensors file, a PyTorch zip file, an index of either, or a folder.
        stack: closes the files in the end.

    Raises:
        UserError: missing, damaged, or something else.
    """
    path = find_weights(path)
    if path.suffix == ".json":
        return _open_shards(path, stack)
    if is_torch_zip(path):
        file: TorchFile = stack.enter_context(TorchFile(path))
        tensors = {
            name: Tensor(entry.shape, functools.partial(file.read, name))
            for name, entry in file.tensors.items()
        }
        return Weights(path, (path,), tensors, file.scripted, file.wrapped)
    with path.open("rb") as start:
        head = start.read(9)
    if head[8:9] == b"{":
        return Weights(path, (path,), _open_safetensors(path, stack))
    # Whatever else it is, the reader of PyTorch's files says it best.
    TorchFile(path).close()
    raise UserError(f"{path} is neither a safetensors nor a PyTorch file")


def _open_safetensors(path: Path, stack: ExitStack) -> dict[str, Tensor]:
    try:
        file = stack.enter_context(safe_open(path, framework="numpy"))
        # safe_open is no mapping: its keys come by method only.
        return {
            name: Tensor(
                tuple(file.get_slice(name).get_shape()),
                functools.partial(file.get_tensor, name),
            )
            for name in file.keys()  # noqa: SIM118
        }
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); fetch it again") from None


def _open_shards(index: Path, stack: ExitStack) -> Weights:
    """The tensors of a model in several files, each read from the file it names."""
    try:
        places = json.loads(index.read_text())["weight_map"]
        shards = sorted(set(places.values()))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{index} is no index of weights ({error!r})") from None
    tensors: dict[str, Tensor] = {}
    files = []
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise UserError(f"{index} names {shard!r}, which is no file beside it")
        if not (index.parent / shard).is_file():
            raise UserError(f"{index.parent / shard} is missing, but {index} names it")
        part = open_weights(index.parent / shard, stack)
        files.append(part.path)
        for name, tensor in part.tensors.items():
            if places.get(name) == shard:
                tensors[name] = tensor
    absent = sorted(places.keys() - tensors.keys())
    if absent:
        raise UserError(f"{index} names {absent[0]}, which {places[absent[0]]} lacks")
    return Weights(index, tuple(files), tensors)


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: str = "F32",
    on_written: Callable[[int], Any] = lambda size: None,
) -> None:
    """Writes tensors one at a time, so that no more than one is in memory.

    The library's own writer wants all of them at once. The file appears whole or not at
    all.

    Args:
        path: the file.
        tensors: by name; of any real type.
        dtype: what they become, `F32` (exact for the shorter types) or `F16`.
        on_written: told the number of bytes after each tensor.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name, tensor in tensors.items():
                value = np.asarray(tensor.read(), kind, order="C")
                if value.shape != tensor.shape:
                    raise ValueError(f"{name}: {value.shape} is not {tensor.shape}")
                file.write(value.reshape(-1).data)
                on_written(value.nbytes)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
