"""The layer plan: segments of consecutive layers, and what is added to each layer."""

import functools
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax


class Source(NamedTuple):
    """Something added to consecutive layers, such as a table of prompts.

    Attributes:
        first: the layer of the first row, counted from 0.
        rows: arrays with a leading layer axis, or an empty tuple.
        make: (one layer's row, the layer's input) -> what is added, or for `joins` what
            enters the layer instead.
    """

    first: int
    rows: Any
    make: Callable[..., Any]


class Additions(NamedTuple):
    """All sources that add to consecutive layers.

    Attributes:
        prompts: sources of prompts `[P, D]`, `[G, P, D]` or `[B, G, P, D]`, given the
            tokens `[B, G, S, D]` that enter a layer.
        updates: sources of replaced input tokens, given the layer's input tokens.
        beside: part of a layer (see `layers.Block`) -> the source of what is added to
            that part's output, given that part's input.
        joins: sources of the tokens that enter a layer and their sizes, given those
            that came out of the one before (see `merging`).
    """

    prompts: tuple[Any, ...] = ()
    updates: tuple[Any, ...] = ()
    beside: Mapping[str, Any] = {}
    joins: tuple[Any, ...] = ()

    @property
    def looks_at_all(self) -> bool:
        """Whether what is added to a row depends on other rows' output of the layer."""
        return "after_mlp" in self.beside


NOTHING = Additions()


def _each(function: Callable[..., Any], additions: Additions, *rest: Any) -> Any:
    """Maps a function over all sources."""
    return jax.tree.map(
        function, additions, *rest, is_leaf=lambda x: isinstance(x, Source)
    )


def rows_of(additions: Additions) -> Any:
    """The rows of all sources, with a leading layer axis."""
    return _each(lambda source: source.rows, additions)


def bind(additions: Additions, rows: Any) -> Additions:
    """One layer's sources, as functions of the layer's input alone."""
    return _each(
        lambda source, row: functools.partial(source.make, row), additions, rows
    )


class Segment(NamedTuple):
    """Consecutive layers with the same kinds of additions; layers count from 0.

    Attributes:
        start: the first layer.
        stop: one past the last layer.
        joint: whether attention is joint over all frames.
        additions: what is added to these layers; its rows are those of these layers.
        across: whether one row of each frame (its class row) attends to the tokens of
            all frames, while its other rows attend within their frame.
        merge: what merges tokens within these layers, as of `layers.Block`; None if
            nothing does.
    """

    start: int
    stop: int
    joint: bool = False
    additions: Additions = NOTHING
    across: bool = False
    merge: Any = None


def singly(plan: Sequence[Segment]) -> list[Segment]:
    """The same layers, each of them a segment of its own."""
    found = []
    for segment in plan:
        for layer in range(segment.start, segment.stop):

            def cut(source: Source, at: int = layer - segment.start) -> Source:
                part = operator.itemgetter(slice(at, at + 1))
                return source._replace(rows=jax.tree.map(part, source.rows))

            own = _each(cut, segment.additions)
            found.append(segment._replace(start=layer, stop=layer + 1, additions=own))
    return found


def plan_layers(
    layers: int,
    split: int,
    prompted: tuple[int, int],
    per_frame: Additions,
    joint: Additions = NOTHING,
    across: Source | None = None,
) -> list[Segment]:
    """Divides a tower's layers into segments.

    Args:
        layers: K.
        split: K_s, the split layer; from there on attention is joint.
        prompted: half-open range of the layers that anything is added to.
        per_frame: what is added to the layers before the split layer.
        joint: what is added to the joint layers.
        across: what is added to the attention across frames of each frame's class row,
            in all layers from its first on; None if there is no such attention.
    """
    first, last = prompted
    fused = layers if across is None else across.first
    plan = []
    cuts = {0, first, last, split, fused, layers}
    for start, stop in itertools.pairwise(sorted(cuts)):
        additions = joint if start >= split else per_frame

        def cut(source: Source, start: int = start, stop: int = stop) -> Source:
            part = operator.itemgetter(slice(start - source.first, stop - source.first))
            return source._replace(rows=jax.tree.map(part, source.rows))

        inside = first <= start and stop <= last
        kept = _each(cut, additions) if inside else NOTHING
        if across is not None and start >= fused:
            kept = kept._replace(beside={**kept.beside, "across": cut(across)})
        plan.append(Segment(start, stop, start >= split, kept, start >= fused))
    return plan
