"""Context modelling (VoP-C): prompts generated for each frame from all frames.

A context modelling module (CMM) reads the frames' class tokens, and a fully connected
layer (FC) turns its output into tokens. All layers share both. Every variable has
PyTorch's name and layout. In a tower without a class token the mean of a frame's patch
tokens takes its place.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vop_jax.model.prompts.lstm import BACKWARD, FORWARD, gate_shapes, make_lstm
from vop_jax.model.prompts.variables import (
    Initializer,
    added,
    constant,
    normal,
    uniform,
)

TRANSFORMER_LAYERS = 4


class Cmm(NamedTuple):
    """A context modelling module.

    Attributes:
        run: class tokens `[B, F, D]` -> `[B, F, O]`, float32.
        width: O.
    """

    run: Callable[[Array], Array]
    width: int


class ContextTokens(nn.Module):
    """`FC(CMM(C))` of the frames' class tokens C.

    Variables: the CMM's (`lstm.*` or `transformer.*`), `fc.weight [P*D, O]` and
    `fc.bias [P*D]`.

    Attributes:
        cmm: a name of `config.CMMS`.
        width: D.
        heads: number of attention heads of the Transformer.
        num_frames: F.
        count: P, the number of tokens generated for each frame.
        forget_bias: initial value of the LSTM's forget gate bias.
        fc_scale: factor on the initial weights of the FC.
    """

    cmm: str
    width: int
    heads: int
    num_frames: int
    count: int
    forget_bias: float
    fc_scale: float

    @nn.compact
    def __call__(self) -> Callable[[Float[Array, "B F D"]], Float[Array, "B F P D"]]:
        """The function from class tokens to each frame's tokens."""
        model = MODELS[self.cmm](self)
        outputs = self.count * self.width
        initial = uniform(model.width**-0.5 * self.fc_scale)
        weight = added(self, "fc.weight", (outputs, model.width), initial)
        bias = added(self, "fc.bias", (outputs,), initial)

        def make(classes: Array) -> Array:
            tokens = model.run(classes.astype(jnp.float32)) @ weight.T + bias
            shape = (*classes.shape[:2], self.count, self.width)
            return tokens.reshape(shape).astype(classes.dtype)

        return make


def _lstm(module: ContextTokens, directions: tuple[str, ...]) -> Cmm:
    """A one-layer LSTM over the frames, hidden size D in each direction."""
    width = module.width
    weights = {}
    for suffix in directions:
        for name, shape in gate_shapes(width, width).items():
            initial = uniform(width**-0.5)
            if name == "bias_ih_l0":
                initial = _forget(initial, module.forget_bias)
            leaf = name + suffix
            weights[leaf] = added(module, f"lstm.{leaf}", shape, initial)
    return Cmm(make_lstm(weights, directions), len(directions) * width)


def _forget(initial: Initializer, bias: float) -> Initializer:
    """The initializer of a gate bias, with `bias` added for the forget gate."""

    def raised(key: Array, shape: tuple[int, ...]) -> Array:
        quarter = shape[0] // 4
        return initial(key, shape).at[quarter : 2 * quarter].add(bias)

    return raised


def _transformer(module: ContextTokens) -> Cmm:
    """PyTorch's pre-norm `nn.TransformerEncoder` over the frames, with positions."""
    width = module.width
    small, large = uniform(width**-0.5), uniform((4 * width) ** -0.5)
    parts: dict[str, tuple[tuple[int, ...], Initializer]] = {
        "self_attn.in_proj_weight": ((3 * width, width), small),
        "self_attn.in_proj_bias": ((3 * width,), constant(0.0)),
        "self_attn.out_proj.weight": ((width, width), small),
        "self_attn.out_proj.bias": ((width,), constant(0.0)),
        "linear1.weight": ((4 * width, width), small),
        "linear1.bias": ((4 * width,), small),
        "linear2.weight": ((width, 4 * width), large),
        "linear2.bias": ((width,), large),
        "norm1.weight": ((width,), constant(1.0)),
        "norm1.bias": ((width,), constant(0.0)),
        "norm2.weight": ((width,), constant(1.0)),
        "norm2.bias": ((width,), constant(0.0)),
    }
    positions = added(
        module, "transformer.positions", (module.num_frames, width), normal(0.02)
    )
    layers = [
        {
            name: added(module, f"transformer.layers.{i}.{name}", shape, initial)
            for name, (shape, initial) in parts.items()
        }
        for i in range(TRANSFORMER_LAYERS)
    ]

    def run(classes: Array) -> Array:
        x = classes + positions
        for weights in layers:
            x = encoder_layer(weights, x, module.heads)
        return x

    return Cmm(run, width)


def encoder_layer(
    weights: dict[str, Array], x: Float[Array, "B F D"], heads: int
) -> Float[Array, "B F D"]:
    """PyTorch's `nn.TransformerEncoderLayer(norm_first=True, activation="gelu")`."""

    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Array, name: str) -> Array:
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    batch, count, width = x.shape
    mixed = norm(x, "norm1") @ weights["self_attn.in_proj_weight"].T
    mixed = (mixed + weights["self_attn.in_proj_bias"]).reshape(
        batch, count, 3, heads, width // heads
    )
    mixed = jax.nn.dot_product_attention(*(mixed[:, :, i] for i in range(3)))
    x = x + linear(mixed.reshape(batch, count, width), "self_attn.out_proj")
    hidden = jax.nn.gelu(linear(norm(x, "norm2"), "linear1"), approximate=False)
    return x + linear(hidden, "linear2")


# The modules of `config.CMMS`.
MODELS: dict[str, Callable[[ContextTokens], Cmm]] = {
    "bilstm": lambda module: _lstm(module, (FORWARD, BACKWARD)),
    "lstm": lambda module: _lstm(module, (FORWARD,)),
    "transformer": _transformer,
}
