"""Other projects' names and layouts of tensors <-> ours on disk, as tables.

Ours are Hugging Face's of a CLIP, and for parts that a CLIP lacks names like them. An
entry maps one of their tensors to one of ours, or to several that are stacked on its
first axis. One engine applies a table, forwards and, for formats that are written,
backwards; it is strict: missing and unexpected tensors and other shapes are errors.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_pipelines.console.errors import UserError
from vop_jax.weights.records import LAYER, few, lists
from vop_jax.weights.tensors import Tensor

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of layout.

    Attributes:
        axes: the numbers of axes that their tensor may have; empty for any.
        shape: their shape -> ours.
        forward: their array -> ours.
        back: our shape -> theirs; None where the format is not written.
        backward: our array -> theirs.
    """

    axes: tuple[int, ...]
    shape: Callable[[Shape], Shape]
    forward: Callable[[np.ndarray], np.ndarray]
    back: Callable[[Shape], Shape] | None = None
    backward: Callable[[np.ndarray], np.ndarray] = lambda x: x


def _reversed(shape: Shape) -> Shape:
    return shape[::-1]


SAME = Change((), lambda shape: shape, lambda x: x, lambda shape: shape)
TRANSPOSED = Change((2,), _reversed, lambda x: x.T, _reversed, lambda x: x.T)
# One number, in a vector of theirs.
SCALAR = Change(
    (0, 1),
    lambda shape: shape if math.prod(shape) != 1 else (),
    lambda x: x.reshape(()),
    lambda shape: (1,),
    lambda x: x.reshape(1),
)
# Without the leading axis, which has length 1.
ROWS = Change((3,), lambda s: s[1:], lambda x: x.reshape(x.shape[1:]))
FLAT = Change((1, 2, 3), lambda s: (math.prod(s),), lambda x: x.reshape(-1))
# Of JAX: [in, ...] to [out, in], [..., out] to [out, in], [h, w, in, out].
INTO = Change(
    (2, 3),
    lambda s: (math.prod(s[1:]), s[0]),
    lambda x: x.reshape(x.shape[0], -1).T,
)
OUT = Change(
    (2, 3),
    lambda s: (s[-1], math.prod(s[:-1])),
    lambda x: x.reshape(-1, x.shape[-1]).T,
)
PATCHES = Change(
    (4,),
    lambda s: (s[3], s[2], s[0], s[1]),
    lambda x: x.transpose(3, 2, 0, 1),
)


@dataclasses.dataclass(frozen=True)
class Rename:
    """One tensor of another project.

    Attributes:
        theirs: its name, with `{layer}` if there is one per layer.
        ours: our names; several are equal parts of its first axis.
        change: of its layout.
        optional: whether some of these models lack it.
    """

    theirs: str
    ours: tuple[str, ...]
    change: Change = SAME
    optional: bool = False


def parts(theirs: str, ours: str, *names: str) -> list[Rename]:
    """Entries of the parts of a module, which have the same names in both."""
    return [Rename(f"{theirs}.{name}", (f"{ours}.{name}",)) for name in names]


def both(theirs: str, ours: str) -> list[Rename]:
    """The entries of a module's weight and bias."""
    return parts(theirs, ours, "weight", "bias")


def split(theirs: str, ours: Sequence[str]) -> list[Rename]:
    """The entries of a module's weight and bias, which are several of ours."""
    return [
        Rename(f"{theirs}{x}", tuple(f"{name}.{x}" for name in ours))
        for x in ("weight", "bias")
    ]


def _expanded(table: Sequence[Rename], names: Sequence[str]) -> list[Rename]:
    """The table with `{layer}` expanded, for the layers that the names have."""
    whole = []
    for record in table:
        if LAYER not in record.theirs:
            whole.append(record)
            continue
        pattern = re.compile(
            re.escape(record.theirs).replace(re.escape(LAYER), r"(\d+)")
        )
        found = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
        # A name may state any layer; no model has more layers than tensors.
        for i in range(min(max(found, default=-1), len(names)) + 1):
            whole.append(_of_layer(record, i))
    return whole


def _of_layer(record: Rename, i: int) -> Rename:
    return dataclasses.replace(
        record,
        theirs=record.theirs.replace(LAYER, str(i)),
        ours=tuple(name.replace(LAYER, str(i)) for name in record.ours),
    )


def to_ours(
    table: Sequence[Rename], tensors: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Renames a model to our names.

    Args:
        table: of its format.
        tensors: all of it.
        where: names the file in an error.

    Raises:
        UserError: a tensor is missing or unexpected, or has another number of axes.
    """
    named, used, missing = {}, set(), []
    for record in _expanded(table, list(tensors)):
        tensor = tensors.get(record.theirs)
        if tensor is None:
            missing += [] if record.optional else [record.theirs]
            continue
        used.add(record.theirs)
        shape, count = tensor.shape, len(record.ours)
        wrong = record.change.axes and len(shape) not in record.change.axes
        if wrong or (count > 1 and (not shape or shape[0] % count)):
            raise UserError(f"{where}: {record.theirs} has shape {list(shape)}")
        if count > 1:
            shape = (shape[0] // count, *shape[1:])
        shape = record.change.shape(shape)
        for part, name in enumerate(record.ours):
            named[name] = Tensor(shape, _reader(tensor, record, part))
    left = sorted(tensors.keys() - used)
    if missing or left:
        raise UserError(
            f"{where} is not the CLIP its names say: "
            f"{lists(missing=missing, unexpected=left)}"
        )
    return named


def _reader(tensor: Tensor, record: Rename, part: int) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        value = tensor.read()
        if len(record.ours) > 1:
            value = np.split(value, len(record.ours))[part]
        return record.change.forward(value)

    return read


def to_theirs(
    table: Sequence[Rename], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Renames a model from our names, in the order of the table."""
    # A tensor of ours that none of theirs holds would be lost.
    named, used = {}, set()
    for record in table:
        layers = [0]
        if LAYER in record.theirs:
            pattern = re.compile(
                re.escape(record.ours[0]).replace(re.escape(LAYER), r"(\d+)")
            )
            found = (pattern.fullmatch(name) for name in tensors)
            layers = sorted(int(match[1]) for match in found if match)
        for i in layers:
            one = _of_layer(record, i)
            if one.optional and one.ours[0] not in tensors:
                continue
            named[one.theirs] = _joined(one, [tensors[name] for name in one.ours])
            used |= {*one.ours}
    if left := sorted(tensors.keys() - used):
        raise ValueError(f"the format has no name for {few(left)}")
    return named


def _joined(record: Rename, held: Sequence[Tensor]) -> Tensor:
    change = record.change
    assert change.back is not None
    shape = change.back(held[0].shape)
    if len(held) == 1:
        return Tensor(shape, lambda: change.backward(np.asarray(held[0].read())))
    whole = (len(held) * shape[0], *shape[1:])
    return Tensor(whole, lambda: np.concatenate([part.read() for part in held]))
