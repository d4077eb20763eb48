"""What is added to a frozen backbone: the sources of each layer's prompts and adapters.

A source is a table with one row per layer, and a function from (the layer's row, the
layer's input) to what is added. Shared and position prompts are the rows themselves;
context prompts are generated from the frame tokens; an adapter is a source as well.
Joint attention needs no source of its own: it begins after the split layer, where the
frames of a video attend to each other.

Every variable lives in the collection `prompts`, under the name and in the layout of
`tuned.safetensors`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Int

from vop_jax.model.clip.sizes import TowerSize, VisionSize
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.prompts.context import ContextTokens
from vop_jax.model.prompts.layer_plan import Additions, Segment, Source, plan_layers
from vop_jax.model.prompts.variables import added, normal


def arrange(
    ids: Int[Array, "B N"], slots: Sequence[int], context_length: int
) -> Int[Array, "B S"]:
    """The token ids of the complete sequence; those at the prompts' positions are 0.

    Without slots it is the caption unchanged, of any length. With slots it has the full
    context length, because the caption also uses the last position.
    """
    if not slots:
        return ids
    free = np.setdiff1d(np.arange(context_length), slots)
    caption = jnp.pad(ids, ((0, 0), (0, context_length)))[:, : len(free)]
    return jnp.zeros((len(ids), context_length), ids.dtype).at[:, free].set(caption)


def _as_it_stands(row: Array, tokens: Array) -> Array:
    del tokens
    return row


def _with(additions: Additions, made: Array | None) -> Additions:
    """The same additions, and prompts of all layers."""
    if made is None:
        return additions
    source = Source(0, made, _as_it_stands)
    return additions._replace(prompts=(*additions.prompts, source))


def _overwrite(slots: list[int], row: Array, tokens: Array) -> Array:
    """The tokens `[B, G, S, D]` with a layer's prompts `[P, D]` in their slots."""
    return tokens.at[:, :, np.array(slots)].set(row.astype(tokens.dtype))


class _TowerPrompts(nn.Module):
    """What both towers' additions share: tables of prompts by layer."""

    config: PromptConfig
    size: TowerSize

    def table(self, name: str, layers: int, *shape: int) -> Array | None:
        """Declares a table of prompts; None if it would be empty."""
        if not (layers > 0 and all(shape)):
            return None
        whole = (layers, *shape, self.size.width)
        return added(self, name, whole, normal(self.config.prompt_std))


class TextPrompts(_TowerPrompts):
    """What is added to the text tower: `text_prompts [K, P, Dt]`."""

    @nn.compact
    def __call__(
        self,
        positions: Array,
        beside: Mapping[str, Source] = {},
        made: Array | None = None,
        across: Source | None = None,
    ) -> list[Segment]:
        """The layer plan of the text tower.

        Args:
            positions: the positional embedding `[context length, Dt]`, added to the
                prompts of layer 1 if they are placed among the words.
            beside: what is added to parts of the layers.
            made: prompts `[K, P, Dt]` of all layers that are made elsewhere, or none.
            across: what is added to the attention of EOT rows across captions.
        """
        config, layers = self.config, self.size.layers
        first, last = config.prompted(layers)
        table = self.table("text_prompts", last - first, config.text_length)
        additions = Additions(beside=beside)
        slots = config.text_slots(len(positions))
        if table is not None and slots:
            if first == 0:
                table = table.at[0].add(positions[np.array(slots)])
            put = functools.partial(_overwrite, slots)
            additions = additions._replace(updates=(Source(first, table, put),))
        elif table is not None:
            stored = Source(first, table, _as_it_stands)
            additions = additions._replace(prompts=(stored,))
        additions = _with(additions, made)
        return plan_layers(layers, layers, (first, last), additions, across=across)


class VideoPrompts(_TowerPrompts):
    """What is added to the vision tower.

    Variables: `video_prompts [K_s, P, Dv]`, `position_prompts [K_s, F, P, Dv]`,
    `context.*` (see `ContextTokens`), `joint_prompts [K - K_s, P, Dv]` and
    `frame_positions [F, Dv]`, each only if its count is not zero.
    """

    size: VisionSize

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
        self,
        ln_pre: Callable[[Array], Array],
        beside: Mapping[str, Source] = {},
        made: Array | None = None,
        across: Source | None = None,
    ) -> list[Segment]:
        """The layer plan of the vision tower.

        Args:
            ln_pre: the tower's first LayerNorm. The stored prompts of layer 1 pass
                through it together with the tokens, as in the authors' code; generated
                prompts do not.
            beside: what is added to parts of the layers.
            made: prompts of all layers that are made elsewhere, `[K, P, Dv]` or
                `[K, F, P, Dv]`, or none.
            across: what is added to the class rows' attention across frames.
        """
        config, layers = self.config, self.size.layers
        first, last = config.prompted(layers)
        split = config.split(layers)

        def stored(base: int, *tables: Array | None) -> tuple[Source, ...]:
            found = [table for table in tables if table is not None]
            if base == 0:
                found = [table.at[0].set(ln_pre(table[0])) for table in found]
            return tuple(Source(base, table, _as_it_stands) for table in found)

        per_frame = Additions(stored(first, self.shared, self.position), (), beside)
        per_frame = _with(per_frame, made)
        if self.context is not None:
            kind, make = ROLES[config.cmm_role]
            rows = _classes if self.size.class_token else _patches
            source = Source(first, (), functools.partial(make, self.context(), rows))
            more = {kind: (*getattr(per_frame, kind), source)}
            per_frame = per_frame._replace(**more)
        joint = Additions(stored(max(first, split), self.joint), (), beside)
        return plan_layers(layers, split, (first, last), per_frame, joint, across)


def _classes(tokens: Array) -> Array:
    """Each frame's class token, as the only row `[B, F, 1, D]`."""
    return tokens[:, :, :1]


def _patches(tokens: Array) -> Array:
    """All rows `[B, F, S, D]` of frames without a class token."""
    return tokens


# Which rows of a frame stand for it: the context is their mean, and what is added to
# the context is added to each of them, so that their mean moves by as much.
_Rows = Callable[[Array], Array]


def _generate(
    make: Callable[[Array], Array], rows: _Rows, row: tuple, tokens: Array
) -> Array:
    """The generated tokens as prompts `[B, F, P, D]`."""
    del row
    return make(_mean(rows(tokens)))


def _update_classes(
    make: Callable[[Array], Array], rows: _Rows, row: tuple, tokens: Array
) -> Array:
    """The tokens, with the one generated token added to each class token.

    Without a class token it is added to every patch.
    """
    del row
    own = rows(tokens)
    count = own.shape[2]
    return tokens.at[:, :, :count].add(make(_mean(own)))


def _mean(rows: Array) -> Array:
    """The mean row of each frame `[B, F, D]`, summed in float32."""
    return rows.mean(axis=2, dtype=jnp.float32).astype(rows.dtype)


# `cmm_role`, of `config.CMM_ROLES` -> the field of `Additions` it belongs to, and how
# its tokens are used.
ROLES = {"prompts": ("prompts", _generate), "update_cls": ("updates", _update_classes)}
