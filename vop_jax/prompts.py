"""What is prompted: the sources that give each layer its prompts.

A prompt source is a table with one row per layer, and a function from (the layer's row,
the frame tokens entering it) to prompts. Shared and position prompts are rows as they
stand; context prompts are made from the tokens. Joint attention needs no source of its
own: it is the split layer after which the frames of a video attend together.

Every variable lives in the collection `prompts`, under the name and in the layout of
`tuned.safetensors`.
"""

import dataclasses
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

PROMPTS = "prompts"


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """How many prompts go where; all zeros is CLIP as it is.

    Attributes:
        text_length: prompts of each prompted text layer.
        video_length: prompts shared by all frames, of each per-frame layer.
        position_length: prompts of each frame position (P).
        context_length: prompts generated from the frames' context (C).
        joint_length: prompts of each joint layer (F).
        first_layer: the first prompted layer of both towers, counted from 1.
        last_layer: the last prompted layer, included; 0 means the tower's last.
        split_layer: K_s, the layers in which each frame attends to itself; the others
            attend jointly over all frames. -1 means all layers (no joint attention).
        num_frames: F, wanted where prompts belong to frame positions.
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
    prompt_std: float = 0.02
    frame_position_std: float = 0.02
    context_forget_bias: float = 0.0
    context_fc_scale: float = 1.0

    def split(self, layers: int) -> int:
        """K_s for a tower of that many layers."""
        return layers if self.split_layer < 0 else self.split_layer

    def prompted(self, layers: int) -> tuple[int, int]:
        """The half-open range of prompted layers, counted from 0."""
        return self.first_layer - 1, self.last_layer or layers


class PromptSource(NamedTuple):
    """Prompts of a run of layers.

    Attributes:
        rows: arrays with a leading axis over the run's layers, or an empty tuple.
        generate: (rows of one layer, tokens `[B, G, S, D]` entering it) -> prompts
            `[P, D]`, `[G, P, D]` or `[B, G, P, D]`.
    """

    rows: Any
    generate: Callable[[Any, Array], Array]


class Segment(NamedTuple):
    """A run of layers that are alike: `start` to `stop`, counted from 0.

    Attributes:
        start: the first layer.
        stop: one past the last layer.
        joint: whether all frames attend together.
        sources: what prompts these layers.
    """

    start: int
    stop: int
    joint: bool = False
    sources: tuple[PromptSource, ...] = ()


def _as_it_stands(row: Array, tokens: Array) -> Array:
    del tokens
    return row


def plan_layers(
    layers: int,
    split: int,
    frame_sources: Sequence[tuple[int, PromptSource]],
    joint_sources: Sequence[tuple[int, PromptSource]] = (),
    prompted: tuple[int, int] | None = None,
) -> list[Segment]:
    """Cuts a tower's layers into runs that are alike.

    Args:
        layers: K.
        split: K_s; layers from there on attend jointly.
        frame_sources: (first layer of its table, source) for per-frame layers.
        joint_sources: the same for joint layers.
        prompted: half-open range of prompted layers; None means all.
    """
    first, last = prompted or (0, layers)
    cuts = sorted({0, first, last, split, layers})
    plan = []
    for start, stop in itertools.pairwise(cuts):
        joint = start >= split
        inside = first <= start and stop <= last
        sources = (joint_sources if joint else frame_sources) if inside else ()
        plan.append(
            Segment(
                start,
                stop,
                joint,
                tuple(
                    PromptSource(
                        jax.tree.map(
                            operator.itemgetter(slice(start - base, stop - base)),
                            source.rows,
                        ),
                        source.generate,
                    )
                    for base, source in sources
                ),
            )
        )
    return plan


class TextPrompts(nn.Module):
    """The prompts of the text tower: `text_prompts [K, P, Dt]`."""

    config: PromptConfig
    layers: int
    width: int

    @nn.compact
    def __call__(self) -> list[Segment]:
        """The plan of the text tower's layers."""
        config = self.config
        first, last = config.prompted(self.layers)
        sources = []
        if config.text_length:
            table = _table(
                self,
                "text_prompts",
                (last - first, config.text_length, self.width),
                config.prompt_std,
            )
            sources.append((first, PromptSource(table, _as_it_stands)))
        return plan_layers(self.layers, self.layers, sources, prompted=(first, last))


class VideoPrompts(nn.Module):
    """The prompts of the vision tower.

    Variables: `video_prompts [K_s, P, Dv]`, `position_prompts [K_s, F, P, Dv]`,
    `context.*` (see `ContextPrompts`), `joint_prompts [K - K_s, P, Dv]` and
    `frame_positions [F, Dv]`, each where its count is not zero.
    """

    config: PromptConfig
    layers: int
    width: int

    def setup(self):
        """Declares the variables."""
        config = self.config
        split = config.split(self.layers)
        first, last = config.prompted(self.layers)
        per_frame = max(0, min(last, split) - first)
        joint_first = max(first, split)
        joint = max(0, last - joint_first)
        self.frame_positions = None
        self.shared = self.position = self.joint = self.context = None
        if per_frame and config.video_length:
            shape = (per_frame, config.video_length, self.width)
            self.shared = _table(self, "video_prompts", shape, config.prompt_std)
        if per_frame and config.position_length:
            shape = (
                per_frame,
                config.num_frames,
                config.position_length,
                self.width,
            )
            self.position = _table(self, "position_prompts", shape, config.prompt_std)
        if per_frame and config.context_length:
            self.context = ContextPrompts(config, self.width)
        if joint and config.joint_length:
            shape = (joint, config.joint_length, self.width)
            self.joint = _table(self, "joint_prompts", shape, config.prompt_std)
        if split < self.layers:
            shape = (config.num_frames, self.width)
            self.frame_positions = _table(
                self, "frame_positions", shape, config.frame_position_std
            )

    def plan(self, ln_pre: Callable[[Array], Array]) -> list[Segment]:
        """The plan of the vision tower's layers.

        Args:
            ln_pre: the tower's first LayerNorm, through which the stored prompts of
                layer 1 pass together with the tokens, as in the authors' code.
                Generated prompts enter as they are.
        """
        first, last = self.config.prompted(self.layers)
        split = self.config.split(self.layers)

        def enter(table: Array) -> Array:
            return table.at[0].set(ln_pre(table[0]))

        def stored(table: Array, base: int) -> tuple[int, PromptSource]:
            return base, PromptSource(
                enter(table) if base == 0 else table, _as_it_stands
            )

        frame_sources = [
            stored(table, first)
            for table in (self.shared, self.position)
            if table is not None
        ]
        if self.context is not None:
            generate = self.context()
            frame_sources.append(
                (first, PromptSource((), lambda _, tokens: generate(tokens[:, :, 0])))
            )
        joint_sources = []
        if self.joint is not None:
            joint_sources.append(stored(self.joint, max(first, split)))
        return plan_layers(
            self.layers, split, frame_sources, joint_sources, prompted=(first, last)
        )


class ContextPrompts(nn.Module):
    """Prompts from the frames' context (VoP-C): a BiLSTM over time, then an FC.

    Variables, in PyTorch's layout and gate order (input, forget, cell, output):
    `lstm.weight_ih_l0 [4H, D]`, `lstm.weight_hh_l0 [4H, H]`, `lstm.bias_ih_l0 [4H]`,
    `lstm.bias_hh_l0 [4H]`, the same with `_reverse`, `fc.weight [P*D, 2H]` and
    `fc.bias [P*D]`, with H = D. All layers share them.
    """

    config: PromptConfig
    width: int

    @nn.compact
    def __call__(self) -> Callable[[Float[Array, "B F D"]], Float[Array, "B F P D"]]:
        """The function from all frames' class tokens to each frame's prompts."""
        config, width = self.config, self.width
        bound = width**-0.5
        lstm = {}
        for suffix in ("", "_reverse"):
            for name, shape in {
                "weight_ih": (4 * width, width),
                "weight_hh": (4 * width, width),
                "bias_ih": (4 * width,),
                "bias_hh": (4 * width,),
            }.items():
                leaf = f"{name}_l0{suffix}"
                initial = _uniform(bound)
                if name == "bias_ih":
                    initial = _forget(initial, config.context_forget_bias)
                lstm[leaf] = _variable(self, f"lstm.{leaf}", shape, initial)
        outputs = config.context_length * width
        initial = _uniform((2 * width) ** -0.5 * config.context_fc_scale)
        weight = _variable(self, "fc.weight", (outputs, 2 * width), initial)
        bias = _variable(self, "fc.bias", (outputs,), initial)

        def generate(frames: Array) -> Array:
            hidden = [lstm_direction(lstm, frames, reverse=x) for x in (False, True)]
            prompts = jnp.concatenate(hidden, axis=-1) @ weight.T + bias
            shape = (*frames.shape[:2], config.context_length, width)
            return prompts.reshape(shape).astype(frames.dtype)

        return generate


def lstm_direction(
    weights: dict[str, Array], frames: Float[Array, "B F D"], *, reverse: bool
) -> Float[Array, "B F H"]:
    """One direction of PyTorch's LSTM, float32 inside."""
    suffix = "_reverse" if reverse else ""
    weight_hh = weights[f"weight_hh_l0{suffix}"]
    bias = weights[f"bias_ih_l0{suffix}"] + weights[f"bias_hh_l0{suffix}"]
    # The inputs' share of the gates needs no loop: one matrix product for all frames.
    inputs = (
        jnp.einsum(
            "bfd,gd->fbg",
            frames.astype(jnp.float32),
            weights[f"weight_ih_l0{suffix}"],
        )
        + bias
    )

    def step(carry, gates):
        hidden, cell = carry
        gates = gates + hidden @ weight_hh.T
        enter, forget, update, leave = jnp.split(gates, 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(update)
        hidden = jax.nn.sigmoid(leave) * jnp.tanh(cell)
        return (hidden, cell), hidden

    start = jnp.zeros((frames.shape[0], weight_hh.shape[1]), jnp.float32)
    _, hidden = jax.lax.scan(step, (start, start), inputs, reverse=reverse)
    return jnp.moveaxis(hidden, 0, 1)


def _uniform(bound: float) -> Callable[[Array, tuple[int, ...]], Array]:
    """PyTorch's default: uniform within the bound."""
    return lambda key, shape: jax.random.uniform(
        key, shape, minval=-bound, maxval=bound
    )


def _forget(
    initial: Callable[[Array, tuple[int, ...]], Array], bias: float
) -> Callable[[Array, tuple[int, ...]], Array]:
    """The initializer of a gate bias, with the forget gate's quarter raised."""

    def raised(key: Array, shape: tuple[int, ...]) -> Array:
        quarter = shape[0] // 4
        return initial(key, shape).at[quarter : 2 * quarter].add(bias)

    return raised


def _variable(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    initializer: Callable[[Array, tuple[int, ...]], Array],
) -> Array:
    """A float32 variable of the collection `prompts`."""
    return module.variable(
        PROMPTS, name, lambda: initializer(module.make_rng(PROMPTS), shape)
    ).value


def _table(
    module: nn.Module, name: str, shape: tuple[int, ...], deviation: float
) -> Array:
    """A variable with normally distributed initial values."""
    return _variable(module, name, shape, nn.initializers.normal(deviation))
