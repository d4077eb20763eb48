"""Conversion of names and layouts as data: records, and one engine for both directions.

A record maps a tensor of a PyTorch model to a path in the parameter tree. The engine is
strict in both directions: a source without a record and a target without a source are
errors that list both sides.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from data_pipelines.console.errors import UserError
from vop_jax.weights.tensors import Tensor

# Placeholder of the layer number in source names and target paths. The last layer is
# stored apart from the stacked others, see `model/towers.py`.
LAYER = "{layer}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """A change of layout and its inverse, given the target's shape."""

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
# A pooling's query, behind two axes of length 1.
PROBE = Layout(lambda x, shape: x.reshape(shape), lambda x: x.reshape(1, 1, -1))
CONVOLUTION = Layout(
    lambda x, shape: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)


@dataclasses.dataclass(frozen=True)
class TensorRecord:
    """One tensor: its PyTorch name, its path in the tree, and the change of layout.

    Attributes:
        source: name, with `{layer}` if there is one per layer.
        target: path with `/`, with `{layer}` if it is in a tower's layer.
        layout: how the tensor is rearranged.
    """

    source: str
    target: str
    layout: Layout = SAME


# Wrapper modules that appear in parameter names: at the front those for data
# parallelism, anywhere those that compile, shard or checkpoint a part of a model.
_WRAPPED = re.compile(
    r"^(?:module\.)+|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


def unwrapped(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Removes the prefixes of PyTorch's wrapper modules from tensor names.

    Raises:
        UserError: two tensors would get the same name.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        bare, times = name, 1
        while times:
            bare, times = _WRAPPED.subn("", bare)
        if bare in found:
            raise UserError(
                f"{where} holds {few([bare])} twice, once of them as {few([name])}; "
                "save one model"
            )
        found[bare] = tensor
    return found


def is_wrapped(name: str) -> bool:
    """Whether a name contains a wrapper module's prefix."""
    return _WRAPPED.search(name) is not None


def _places(record: TensorRecord, layers: int) -> Iterable[tuple[str, str, int | None]]:
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
    records: Sequence[TensorRecord],
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    layers: Callable[[TensorRecord], int],
    where: str,
) -> list[tuple[TensorRecord, str, str, int | None]]:
    """Checks that named tensors fill a parameter tree, without reading any.

    Args:
        records: the conversion.
        tensors: all tensors; one without a record is an error.
        shapes: target path -> shape, including the stacked axis; other targets of the
            records are ignored.
        layers: the number of layers of a record's tower.
        where: names the source in an error.

    Returns:
        (record, name, target path, index on the stacked axis or None) of each tensor.

    Raises:
        UserError: a tensor is missing or unexpected, or a shape does not fit.
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
            f"{where} is not this model: "
            + lists(missing=missing, unexpected=sorted(left), unfilled=unfilled)
        )
    for record, source, target, index in placed:
        shape = shapes[target] if index is None else shapes[target][1:]
        # A broadcast zero stands in for the tensor, so that nothing is read or copied.
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
    records: Sequence[TensorRecord],
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    layers: Callable[[TensorRecord], int],
    where: str,
    wanted: Callable[[str], bool] = lambda path: True,
) -> dict[str, Any]:
    """Fills a parameter tree from named tensors.

    Args:
        records: as for `check_names`, and so are the next four.
        tensors: all are checked.
        shapes: of the complete tree.
        layers: of a record's tower.
        where: names the source.
        wanted: which target paths are read; the others are not in the tree.

    Returns:
        The nested tree, float32.
    """
    # Checked before the tree is allocated: only what tensors fill takes memory.
    placed = check_names(records, tensors, shapes, layers, where)
    tree = {k: np.empty(x, np.float32) for k, x in shapes.items() if wanted(k)}
    for record, source, target, index in placed:
        if target not in tree:
            continue
        part = tree[target][... if index is None else index]
        part[...] = record.layout.forward(tensors[source].read(), part.shape)
    return traverse_util.unflatten_dict(tree, sep="/")


def to_names(
    records: Sequence[TensorRecord],
    tree: Mapping[str, Any],
    layers: Callable[[TensorRecord], int],
) -> dict[str, np.ndarray]:
    """The inverse of `to_tree`: named tensors in PyTorch's layout.

    A partial tree gives only its names; a leaf without a record is an error.
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
            # `ascontiguousarray` would turn a scalar into a vector.
            named[source] = np.asarray(value, order="C")
    unused = sorted(set(flat) - used)
    if unused:
        raise UserError(f"no record writes {few(unused)}")
    return named


def targets_of(
    records: Sequence[TensorRecord],
    names: Iterable[str],
    layers: Callable[[TensorRecord], int],
) -> set[str]:
    """The target paths that named tensors belong to."""
    wanted = set(names)
    return {
        target
        for record in records
        for source, target, _ in _places(record, layers(record))
        if source in wanted
    }


def lists(**names: Sequence[str]) -> str:
    """Lists of names, each after what they are; without the empty ones."""
    return "; ".join(f"{what} {few(held)}" for what, held in names.items() if held)


def few(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
