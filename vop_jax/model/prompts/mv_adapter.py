"""Adapters behind the MLP that look at a whole video, or at a whole caption.

MV-Adapter (Jin et al., CVPR 2024), from its released code. Behind the MLP of every
layer of both towers a bottleneck is added to the MLP's output, and in the bottleneck a
small Transformer layer runs: over a video's class rows and the means of its frames'
patches, or over a caption's words. In the last two layers one vector, the same for both
towers, scales the rows of the down-projections.

The up-projections start at zero, so that training starts from CLIP itself.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vop_jax.model.clip.layers import ACTIVATIONS, Block, LayerNorm
from vop_jax.model.clip.precision import Precision
from vop_jax.model.clip.sizes import ClipSize, TowerSize
from vop_jax.model.prompts.clip_block import block_params, block_shapes
from vop_jax.model.prompts.config import BEHIND, PromptConfig
from vop_jax.model.prompts.layer_plan import Source
from vop_jax.model.prompts.variables import (
    Initializer,
    added,
    constant,
    normal,
    uniform,
)

# Not options of the released code: the factor on what is added, the heads of the layer
# in the bottleneck and the width of the MLP in its calibration.
_SCALE, _HEADS, _CALIBRATION = 0.1, 2, 16
# The last layers of each tower that are tied, and the width of their vector.
_TIED, _SHARED = 2, 32
_QUICK = ACTIVATIONS["quick_gelu"]

# Name -> shape without the layer axis, initial values.
Parts = dict[str, tuple[tuple[int, ...], Initializer]]


class SharedVectors(nn.Module):
    """One vector for each tied layer: `adapters.shared [2, 32]`."""

    @nn.compact
    def __call__(self) -> Float[Array, "2 32"]:
        """The vectors."""
        return added(self, "adapters.shared", (_TIED, _SHARED), constant(0.0))


class _Adapters(nn.Module):
    """The adapters of a tower, stacked.

    Attributes:
        config: what is added to the backbone.
        size: of the backbone.
        precision: the dtypes of the tower.
        shared: of both towers.
    """

    config: PromptConfig
    size: ClipSize
    precision: Precision
    shared: SharedVectors

    def declare(
        self, size: TowerSize, positions: int, down: Initializer, more: Parts
    ) -> dict[str, Array]:
        """The weights of all layers.

        Variables of both towers: `down.weight [K, W, D]`, `down.bias`, `up.weight`,
        `up.bias`, `positions [K, rows, W]`, `ln_pre.*` and `block.*`; and of the tied
        layers `tie.weight [2, W, 32]` and `tie.bias [2, W]`.

        Args:
            size: of the tower.
            positions: rows of the table of positions.
            down: the initial values of `down.weight`.
            more: what this tower's adapters have besides.
        """
        width, narrow = size.width, self.config.adapter_width
        zero, one = constant(0.0), constant(1.0)
        # They hang on the tower's width, not on the bottleneck's.
        attention, other = normal(width**-0.5), normal((2 * width) ** -0.5)
        own: dict[str, Initializer] = {
            **{f"self_attn.{x}_proj.weight": attention for x in "qkv"},
            **dict.fromkeys(
                ("self_attn.out_proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"), other
            ),
            **{f"layer_norm{i}.weight": one for i in (1, 2)},
            "mlp.fc1.bias": uniform(narrow**-0.5),
            "mlp.fc2.bias": uniform((4 * narrow) ** -0.5),
        }
        parts: Parts = {
            "down.weight": ((narrow, width), down),
            "down.bias": ((narrow,), zero),
            "up.weight": ((width, narrow), zero),
            "up.bias": ((width,), zero),
            "positions": ((positions, narrow), normal(0.01)),
            "ln_pre.weight": ((narrow,), one),
            "ln_pre.bias": ((narrow,), zero),
            **{
                f"block.{name}": (shape, own.get(name, zero))
                for name, shape in block_shapes(block_size(narrow)).items()
            },
            **more,
        }
        weights = {
            name: added(self, f"{BEHIND}.{name}", (size.layers, *shape), initial)
            for name, (shape, initial) in parts.items()
        }
        tied = weights["down.weight"]
        free = len(tied) - _TIED
        factors = self.factors(narrow)[:, :, None]
        weights["down.weight"] = jnp.concatenate([tied[:free], tied[free:] * factors])
        return weights

    def factors(self, narrow: int) -> Float[Array, "2 W"]:
        """What the rows of the tied layers' down-projections are multiplied by.

        The vectors are zero at the start, so that these are random then.
        """
        spread = uniform(_SHARED**-0.5)
        weight = added(self, "tie.weight", (_TIED, narrow, _SHARED), spread)
        bias = added(self, "tie.bias", (_TIED, narrow), spread)
        return jnp.einsum("kws,ks->kw", weight, self.shared()) + bias


class VideoAdapters(_Adapters):
    """The adapters of the vision tower, whose first row of a frame is its class token.

    Variables besides: `token [K, W]`, which stands for the video, and what weighs the
    channels of each frame's class row, `calibration.g.*`, `calibration.a.*` and
    `calibration.b.weight`.
    """

    @nn.compact
    def __call__(self, first: int) -> dict[str, Source]:
        """The source of what is added behind the MLP of all layers.

        Args:
            first: the first of them, 0.
        """
        narrow = self.config.adapter_width
        default, wide = uniform(narrow**-0.5), uniform((2 * narrow) ** -0.5)
        more: Parts = {
            "token": ((narrow,), normal(narrow**-0.5)),
            "calibration.g.weight": ((narrow, narrow), default),
            "calibration.g.bias": ((narrow,), default),
            "calibration.a.weight": ((_CALIBRATION, 2 * narrow), wide),
            "calibration.a.bias": ((_CALIBRATION,), wide),
            "calibration.b.weight": ((narrow, _CALIBRATION), constant(0.0)),
        }
        size, places = self.size.vision, 2 * self.config.num_frames + 1
        weights = self.declare(size, places, uniform(size.width**-0.5), more)
        mix = functools.partial(mixed, _mixing(narrow, self.precision))
        return {BEHIND: Source(first, weights, functools.partial(adapt_frames, mix))}


class CaptionAdapters(_Adapters):
    """The adapters of the text tower; `positions` has a row for each word."""

    @nn.compact
    def __call__(self, first: int) -> dict[str, Source]:
        """The source of what is added behind the MLP of all layers.

        Args:
            first: the first of them, 0.
        """
        size = self.size.text
        places = self.config.caption_length(self.size.context_length)
        down = normal((2 * size.width) ** -0.5)
        weights = self.declare(size, places, down, {})
        mix = functools.partial(
            mixed, _mixing(self.config.adapter_width, self.precision)
        )
        return {BEHIND: Source(first, weights, functools.partial(adapt_words, mix))}


class Mixing(NamedTuple):
    """What runs in a bottleneck, without its parameters."""

    norm: LayerNorm
    block: Block
    size: TowerSize


def block_size(narrow: int) -> TowerSize:
    """The layer in a bottleneck of that width."""
    return TowerSize(narrow, 1, _HEADS, 4 * narrow)


def _mixing(narrow: int, precision: Precision) -> Mixing:
    size = block_size(narrow)
    norm = LayerNorm(size.epsilon, dtype=precision.results, parent=None)
    return Mixing(norm, Block(size, precision, parent=None), size)


def mixed(
    mixing: Mixing,
    weights: dict[str, Array],
    rows: Float[Array, "B G R W"],
    mask: Bool[Array, "R R"] | None = None,
) -> Float[Array, "B G R W"]:
    """Rows of a bottleneck that have looked at each other within their group."""
    scale, bias = weights["ln_pre.weight"], weights["ln_pre.bias"]
    normed: Any = mixing.norm.apply({"params": {"scale": scale, "bias": bias}}, rows)
    own = {
        name.removeprefix("block."): value
        for name, value in weights.items()
        if name.startswith("block.")
    }
    params = block_params(mixing.size, own)
    return _QUICK(mixing.block.apply({"params": params}, normed, mask=mask)[0])


def _linear(weights: dict[str, Array], name: str, rows: Array) -> Array:
    rows = rows @ weights[f"{name}.weight"].T
    bias = weights.get(f"{name}.bias")
    return rows if bias is None else rows + bias


def adapt_frames(
    mix: Callable[..., Array],
    weights: dict[str, Array],
    rows: Float[Array, "B F S D"],
) -> Float[Array, "B F S D"]:
    """What one layer's adapter adds to the MLP's output for all frames of videos.

    Args:
        mix: `mixed`, with what runs.
        weights: as of `VideoAdapters`, without the layer axis.
        rows: the output of the MLP, the class token of each frame first.
    """
    weights = {name: value.astype(rows.dtype) for name, value in weights.items()}
    count = rows.shape[1]
    down = _QUICK(_linear(weights, "down", rows))
    classes, patches = down[:, :, 0], down[:, :, 1:]
    means = patches.mean(axis=2, dtype=jnp.float32).astype(rows.dtype)
    token = jnp.broadcast_to(weights["token"], (len(rows), 1, down.shape[-1]))
    # [B, 2 F + 1, W]
    sequence = jnp.concatenate([token, classes, means], axis=1)
    seen = mix(weights, (sequence + weights["positions"])[:, None])[:, 0]
    video, classes, means = seen[:, :1], seen[:, 1 : count + 1], seen[:, count + 1 :]
    about = _linear(weights, "calibration.g", video)
    about = jnp.concatenate(
        [classes + means, jnp.broadcast_to(about, classes.shape)], axis=-1
    )
    hidden = jax.nn.relu(_linear(weights, "calibration.a", about))
    classes = classes * (1 + _linear(weights, "calibration.b", hidden))
    # Patches see no other frame.
    down = jnp.concatenate([classes[:, :, None], patches], axis=2)
    return _SCALE * _linear(weights, "up", down)


def adapt_words(
    mix: Callable[..., Array],
    weights: dict[str, Array],
    rows: Float[Array, "B G N D"],
) -> Float[Array, "B G N D"]:
    """What one layer's adapter adds to the MLP's output for the words of captions.

    Args:
        mix: `mixed`, with what runs.
        weights: as of `CaptionAdapters`, without the layer axis.
        rows: the output of the MLP. Those beyond the table of positions are padding,
            which no word sees; they get no position.
    """
    weights = {name: value.astype(rows.dtype) for name, value in weights.items()}
    length, positions = rows.shape[2], weights["positions"][: rows.shape[2]]
    positions = jnp.pad(positions, ((0, length - len(positions)), (0, 0)))
    index = jnp.arange(length)
    down = _linear(weights, "down", rows) + positions
    seen = mix(weights, down, index[:, None] >= index)
    return _SCALE * _linear(weights, "up", seen)
