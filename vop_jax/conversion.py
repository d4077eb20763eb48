"""Name and layout conversion as data: records, and one engine for both ways.

A record says where a tensor of a PyTorch model lands in the parameter tree. The engine
is strict both ways: a source that no record wants and a target that no source fills are
errors that list both sides.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from data_pipelines.errors import UserError
from vop_jax.weight_files import Tensor

# What stands for the layer number in a source name and in a target path. The last
# layer is stored apart from the stacked others, see `towers`.
LAYER = "{layer}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """A change of layout and its inverse, given the leaf's target shape."""

    forward: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]


def _matrix(x: np.ndarray) -> np.ndarray:
    """[in, heads, d] or [heads, d, out] or [in, out] -> PyTorch's [out, in]."""
    return x.reshape(x.shape[0], -1).T


SAME = Layout(lambda x, shape: x.reshape(shape), lambda x: x)
FLAT = Layout(lambda x, shape: x.reshape(shape), lambda x: x.reshape(-1))
LINEAR = Layout(lambda x, shape: x.T.reshape(shape), _matrix)
LINEAR_OUT = Layout(
    lambda x, shape: x.T.reshape(shape), lambda x: x.reshape(-1, x.shape[-1]).T
)
CONVOLUTION = Layout(
    lambda x, shape: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)


@dataclasses.dataclass(frozen=True)
class Record:
    """One tensor: its PyTorch name, its path in the tree, and the layout between.

    Attributes:
        source: name, with `{layer}` where there is one per layer.
        target: path with `/`, with `{layer}` where it is a tower's layer.
        layout: how the tensor is rearranged.
    """

    source: str
    target: str
    layout: Layout = SAME


def _places(record: Record, layers: int) -> Iterable[tuple[str, str, int | None]]:
    """Yields (source name, target path, index on the stacked axis or None)."""
    if LAYER not in record.source:
        yield record.source, record.target, None
        return
    for i in range(layers):
        source = record.source.replace(LAYER, str(i))
        if i == layers - 1:
            yield source, record.target.replace(LAYER, "last_layer"), None
        else:
            yield source, record.target.replace(LAYER, "layers"), i


def check_names(
    records: Sequence[Record],
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    layers: Callable[[Record], int],
    where: str,
) -> list[tuple[Record, str, str, int | None]]:
    """Makes sure that named tensors are a parameter tree, without reading any.

    Args:
        records: the conversion.
        tensors: all there are; one that no record wants is an error.
        shapes: target path -> shape, the stacked axis included; other targets of the
            records are left alone.
        layers: the number of layers of a record's tower.
        where: what to call the source in an error.

    Returns:
        (record, name, target path, index on the stacked axis or None) of each tensor.

    Raises:
        UserError: names missing or left over, or a shape that does not fit.
    """
    left, missing, placed = set(tensors), [], []
    for record in records:
        for source, target, index in _places(record, layers(record)):
            if target not in shapes:
                continue
            if source not in left:
                missing.append(source)
                continue
            left.remove(source)
            placed.append((record, source, target, index))
    filled = {target for _, _, target, _ in placed}
    unfilled = [path for path in shapes if path not in filled]
    if missing or left or unfilled:
        raise UserError(
            f"{where} is not this model: missing {few(missing)}; "
            f"left over {few(sorted(left))}; unfilled {few(unfilled)}"
        )
    for record, source, target, index in placed:
        shape = shapes[target] if index is None else shapes[target][1:]
        # All of it one zero, so that nothing is read or moved.
        sample = np.broadcast_to(np.float32(0), tensors[source].shape)
        try:
            fits = record.layout.forward(sample, shape).shape == shape
        except ValueError:
            fits = False
        if not fits:
            raise UserError(
                f"{where}: {source} has shape {list(sample.shape)}, which does not "
                f"fit {target} {list(shape)}; is config.json the one of this file?"
            )
    return placed


def to_tree(
    records: Sequence[Record],
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    layers: Callable[[Record], int],
    where: str,
) -> dict[str, Any]:
    """Fills a parameter tree from named tensors; arguments as of `check_names`.

    Returns:
        The nested tree, float32.
    """
    tree = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
    for record, source, target, index in check_names(
        records, tensors, shapes, layers, where
    ):
        part = tree[target][... if index is None else index]
        part[...] = record.layout.forward(tensors[source].read(), part.shape)
    return traverse_util.unflatten_dict(tree, sep="/")


def to_names(
    records: Sequence[Record],
    tree: Mapping[str, Any],
    layers: Callable[[Record], int],
) -> dict[str, np.ndarray]:
    """The inverse of `to_tree`: named tensors in PyTorch's layout.

    A part of a tree gives a part of the names; a leaf that no record knows is an error.
    """
    flat = traverse_util.flatten_dict(dict(tree), sep="/")
    named, used = {}, set()
    for record in records:
        for source, target, index in _places(record, layers(record)):
            if target not in flat:
                continue
            value = np.asarray(flat[target])
            used.add(target)
            value = record.layout.inverse(value if index is None else value[index])
            named[source] = np.ascontiguousarray(value)
    unused = sorted(set(flat) - used)
    if unused:
        raise UserError(f"no record writes {few(unused)}")
    return named


def targets_of(
    records: Sequence[Record], names: Iterable[str], layers: Callable[[Record], int]
) -> set[str]:
    """The target paths that named tensors belong to."""
    wanted = set(names)
    return {
        target
        for record in records
        for source, target, _ in _places(record, layers(record))
        if source in wanted
    }


def few(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    if not names:
        return "nothing"
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
