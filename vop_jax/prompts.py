"""What is added to a frozen backbone: the sources that feed each layer.

A source is a table with one row per layer, and a function from (the layer's row, what
enters) to what is added. Shared and position prompts are rows as they stand; context
prompts are made from the frame tokens; an adapter is a source of another kind of thing,
cut to layers in the same way. Joint attention needs no source of its own: it is the
split layer after which the frames of a video attend together.

Every variable lives in the collection `prompts`, under the name and in the layout of
`tuned.safetensors`.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array

from vop_jax.adapters import Adapters, adapt
from vop_jax.context import ContextTokens
from vop_jax.sizes import TowerSize
from vop_jax.text_layout import prompt_slots
from vop_jax.variables import added, normal


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """How much of what is added where; all zeros is CLIP as it is.

    Attributes:
        text_length: prompts of each prompted text layer.
        video_length: prompts shared by all frames, of each per-frame layer.
        position_length: prompts of each frame position (P).
        context_length: tokens generated from the frames' context (C).
        joint_length: prompts of each joint layer (F).
        first_layer: the first prompted layer of both towers, counted from 1.
        last_layer: the last prompted layer, included; 0, or more than a tower has,
            means the tower's last.
        split_layer: K_s, the layers in which each frame attends to itself; the others
            attend jointly over all frames. -1 means all layers (no joint attention).
        num_frames: F, wanted where prompts belong to frame positions.
        text_layout: where the text prompts stand, see `text_layout`.
        cmm: what models the context: `bilstm`, `lstm` or `transformer`.
        cmm_role: whether the generated tokens are `prompts` or, with `update_cls`, the
            one generated token is added to each frame's class token.
        adapter: what adapters stand beside, `attention` or `mlp`; empty means none.
        adapter_width: W, the adapters' bottleneck.
        prompt_std: standard deviation of the prompts' initial values.
        frame_position_std: the same of the frame positional embedding.
        context_forget_bias: initial value of the context LSTM's forget gate bias.
        context_fc_scale: factor on the initial weights of the context FC.
    """

    text_length: int = 0
    video_length: int = 0
    position_length: int = 0
    context_length: int = 0
    joint_length: int = 0
    first_layer: int = 1
    last_layer: int = 0
    split_layer: int = -1
    num_frames: int = 12
    text_layout: str = "prefix"
    cmm: str = "bilstm"
    cmm_role: str = "prompts"
    adapter: str = ""
    adapter_width: int = 64
    prompt_std: float = 0.02
    frame_position_std: float = 0.02
    context_forget_bias: float = 0.0
    context_fc_scale: float = 1.0

    def split(self, layers: int) -> int:
        """K_s for a tower of that many layers."""
        return layers if self.split_layer < 0 else self.split_layer

    def text_slots(self, context_length: int) -> list[int]:
        """The rows of a caption's sequence that belong to prompts."""
        return prompt_slots(self.text_layout, self.text_length, context_length)

    def caption_length(self, context_length: int) -> int:
        """The most tokens a caption may have, start and end included."""
        return context_length - len(self.text_slots(context_length))

    def bound_to_frames(self, layers: int) -> bool:
        """Whether something belongs to the positions of exactly F frames."""
        learned = self.context_length and self.cmm == "transformer"
        return bool(self.position_length or learned or self.split(layers) < layers)

    def prompted(self, layers: int) -> tuple[int, int]:
        """The half-open range of prompted layers, counted from 0."""
        return self.first_layer - 1, min(self.last_layer or layers, layers)


class Source(NamedTuple):
    """What is added to a run of layers.

    Attributes:
        first: the layer of the first row, counted from 0.
        rows: arrays with a leading axis over layers, or an empty tuple.
        make: (row of one layer, what enters) -> what is added.
    """

    first: int
    rows: Any
    make: Callable[[Any, Array], Array]


class Additions(NamedTuple):
    """All that is added to a run of layers.

    Attributes:
        prompts: make prompts `[P, D]`, `[G, P, D]` or `[B, G, P, D]` from the tokens
            `[B, G, S, D]` entering a layer.
        updates: make the tokens that enter a layer from those that would.
        beside: part of a layer (`attention`, `mlp`) -> makes what is added to that
            part's output from the normalised rows that enter it.
    """

    prompts: tuple[Any, ...] = ()
    updates: tuple[Any, ...] = ()
    beside: Mapping[str, Any] = {}


NOTHING = Additions()


def _each(function: Callable[..., Any], additions: Additions, *rest: Any) -> Any:
    """Maps over the sources of additions."""
    return jax.tree.map(
        function, additions, *rest, is_leaf=lambda x: isinstance(x, Source)
    )


def rows_of(additions: Additions) -> Any:
    """The rows of all sources, to be indexed by layer."""
    return _each(lambda source: source.rows, additions)


def bind(additions: Additions, rows: Any) -> Additions:
    """The sources as functions of what enters, for one layer's rows."""
    return _each(
        lambda source, row: functools.partial(source.make, row), additions, rows
    )


class Segment(NamedTuple):
    """A run of layers that are alike: `start` to `stop`, counted from 0.

    Attributes:
        start: the first layer.
        stop: one past the last layer.
        joint: whether all frames attend together.
        additions: what is added to these layers, their rows alone.
    """

    start: int
    stop: int
    joint: bool = False
    additions: Additions = NOTHING


def plan_layers(
    layers: int,
    split: int,
    prompted: tuple[int, int],
    per_frame: Additions,
    joint: Additions = NOTHING,
) -> list[Segment]:
    """Cuts a tower's layers into runs that are alike.

    Args:
        layers: K.
        split: K_s; layers from there on attend jointly.
        prompted: half-open range of the layers that anything is added to.
        per_frame: what is added to layers before the split.
        joint: what is added to the others.
    """
    first, last = prompted
    plan = []
    for start, stop in itertools.pairwise(sorted({0, first, last, split, layers})):
        additions = joint if start >= split else per_frame

        def cut(source: Source, start: int = start, stop: int = stop) -> Source:
            part = operator.itemgetter(slice(start - source.first, stop - source.first))
            return source._replace(rows=jax.tree.map(part, source.rows))

        inside = first <= start and stop <= last
        kept = _each(cut, additions) if inside else NOTHING
        plan.append(Segment(start, stop, start >= split, kept))
    return plan


def _as_it_stands(row: Array, tokens: Array) -> Array:
    del tokens
    return row


def _overwrite(slots: list[int], row: Array, tokens: Array) -> Array:
    """The tokens `[B, 1, S, D]` with a layer's prompts `[P, D]` in their slots."""
    return tokens.at[:, :, np.array(slots)].set(row.astype(tokens.dtype))


def _beside(config: PromptConfig, adapters: Any, first: int) -> dict[str, Source]:
    return {config.adapter: Source(first, adapters(), adapt)} if adapters else {}


class _TowerPrompts(nn.Module):
    """What both towers' additions have: prompts and adapters by layer."""

    config: PromptConfig
    size: TowerSize

    def table(self, name: str, layers: int, *shape: int) -> Array | None:
        """A table of prompts, None where it would be empty."""
        if not (layers > 0 and all(shape)):
            return None
        whole = (layers, *shape, self.size.width)
        return added(self, name, whole, normal(self.config.prompt_std))


class TextPrompts(_TowerPrompts):
    """What is added to the text tower: `text_prompts [K, P, Dt]`."""

    @nn.compact
    def __call__(
        self, positions: Array, adapters: Adapters | None = None
    ) -> list[Segment]:
        """The plan of the text tower's layers.

        Args:
            positions: the positional embedding `[context length, Dt]`, added to the
                prompts of layer 1 where they stand among the words.
            adapters: the tower's.
        """
        config, layers = self.config, self.size.layers
        first, last = config.prompted(layers)
        table = self.table("text_prompts", last - first, config.text_length)
        additions = Additions(beside=_beside(config, adapters, first))
        slots = config.text_slots(len(positions))
        if table is not None and slots:
            if first == 0:
                table = table.at[0].add(positions[np.array(slots)])
            put = functools.partial(_overwrite, slots)
            additions = additions._replace(updates=(Source(first, table, put),))
        elif table is not None:
            stored = Source(first, table, _as_it_stands)
            additions = additions._replace(prompts=(stored,))
        return plan_layers(layers, layers, (first, last), additions)


class VideoPrompts(_TowerPrompts):
    """What is added to the vision tower.

    Variables: `video_prompts [K_s, P, Dv]`, `position_prompts [K_s, F, P, Dv]`,
    `context.*` (see `ContextTokens`), `joint_prompts [K - K_s, P, Dv]` and
    `frame_positions [F, Dv]`, each where its count is not zero.
    """

    def setup(self):
        """Declares the variables."""
        config, layers, width = self.config, self.size.layers, self.size.width
        split = config.split(layers)
        first, last = config.prompted(layers)
        count = min(last, split) - first
        self.shared = self.table("video_prompts", count, config.video_length)
        self.position = self.table(
            "position_prompts", count, config.num_frames, config.position_length
        )
        self.joint = self.table(
            "joint_prompts", last - max(first, split), config.joint_length
        )
        self.context = None
        if count > 0 and config.context_length:
            self.context = ContextTokens(
                config.cmm,
                width,
                self.size.heads,
                config.num_frames,
                config.context_length,
                config.context_forget_bias,
                config.context_fc_scale,
            )
        self.frame_positions = None
        if split < layers:
            shape = (config.num_frames, width)
            initial = normal(config.frame_position_std)
            self.frame_positions = added(self, "frame_positions", shape, initial)

    def plan(
        self, ln_pre: Callable[[Array], Array], adapters: Adapters | None = None
    ) -> list[Segment]:
        """The plan of the vision tower's layers.

        Args:
            ln_pre: the tower's first LayerNorm, through which the stored prompts of
                layer 1 pass together with the tokens, as in the authors' code.
                Generated prompts enter as they are.
            adapters: the tower's.
        """
        config, layers = self.config, self.size.layers
        first, last = config.prompted(layers)
        split = config.split(layers)

        def stored(base: int, *tables: Array | None) -> tuple[Source, ...]:
            found = [table for table in tables if table is not None]
            if base == 0:
                found = [table.at[0].set(ln_pre(table[0])) for table in found]
            return tuple(Source(base, table, _as_it_stands) for table in found)

        beside = _beside(config, adapters, first)
        per_frame = Additions(stored(first, self.shared, self.position), (), beside)
        if self.context is not None:
            kind, make = ROLES[config.cmm_role]
            source = Source(first, (), functools.partial(make, self.context()))
            more = {kind: (*getattr(per_frame, kind), source)}
            per_frame = per_frame._replace(**more)
        joint = Additions(stored(max(first, split), self.joint), (), beside)
        return plan_layers(layers, split, (first, last), per_frame, joint)


def _generate(make: Callable[[Array], Array], row: tuple, tokens: Array) -> Array:
    """The context's tokens as prompts `[B, F, P, D]`."""
    del row
    return make(tokens[:, :, 0])


def _update_classes(make: Callable[[Array], Array], row: tuple, tokens: Array) -> Array:
    """The tokens, with the context's one token added to each class token."""
    del row
    return tokens.at[:, :, 0].add(make(tokens[:, :, 0])[:, :, 0])


# A context's role -> which of the additions it is, and how its tokens are used.
ROLES = {"prompts": ("prompts", _generate), "update_cls": ("updates", _update_classes)}
