"""Prompts of both towers that are made from one table, the latent (DGL).

DGL (Yang et al., AAAI 2024), from its released code. Every layer of the vision tower
has P prompts for each frame, and every layer of the text tower P prompts behind the SOT
token; both are made from that layer's rows of the latent. Beside them P global prompts,
shared by all videos, run through the vision tower with the frames: see `layers.Block`.
The first of them is the video's embedding, so a video has one row instead of one per
frame. No prompt has a position, and none passes the tower's first LayerNorm.

DGL also has P text prompts behind the padded caption. The text tower is causal, so they
reach neither the words nor EOT, and the matrix that makes them never gets a gradient.
`PromptConfig.postfix` keeps it, as released checkpoints hold it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn
from jaxtyping import Array, Float

from vop_jax.model.clip.layers import ACTIVATIONS, Block
from vop_jax.model.clip.sizes import ClipSize, TowerSize
from vop_jax.model.prompts.clip_block import block_params, block_shapes
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.prompts.variables import added, constant, normal, uniform


class Made(NamedTuple):
    """The prompts that a form of the latent makes.

    Attributes:
        frames: the frames' prompts `[K, P, Dv]`, the same for each of them, or
            `[K, F, P, Dv]`.
        texts: the captions' prompts `[K, P, Dt]`.
    """

    frames: Callable[[], Array]
    texts: Callable[[], Array]


class LatentPrompts(nn.Module):
    """The latent, what is made from it, and the global prompts.

    Variables: `global_prompts [P, Dv]`, `latent [rows, K * Dv]` and those of the form.
    K is the number of layers of the deeper tower; each row holds its layers one after
    another.

    Attributes:
        config: the prompt configuration.
        size: of the backbone.
    """

    config: PromptConfig
    size: ClipSize

    def setup(self):
        """Declares the variables."""
        shape = (self.config.global_length, self.size.vision.width)
        self.carried = added(self, "global_prompts", shape, _patch_uniform(self.size))
        self.made = FORMS[self.config.latent](self)

    def global_rows(self) -> Float[Array, "P Dv"]:
        """The global prompts, as they enter layer 1."""
        return self.carried

    def frame_prompts(self) -> Array:
        """The frames' prompts of each layer of the vision tower; see `Made`."""
        return self.made.frames()[: self.size.vision.layers]

    def text_prompts(self) -> Float[Array, "K P Dt"]:
        """The prompts of each layer of the text tower."""
        return self.made.texts()[: self.size.text.layers]

    def table(self, rows: int, initial: Callable[..., Array]) -> Array:
        """Declares the latent; its rows by layer `[K, rows, Dv]`."""
        width = self.size.vision.width
        layers = max(self.size.vision.layers, self.size.text.layers)
        latent = added(self, "latent", (rows, layers * width), initial)
        return latent.reshape(rows, layers, width).swapaxes(0, 1)

    def linear(self, name: str, inputs: int, outputs: int) -> Callable[[Array], Array]:
        """Declares a linear layer in PyTorch's layout and initial distribution."""
        initial = uniform(inputs**-0.5)
        weight = added(self, f"{name}.weight", (outputs, inputs), initial)
        bias = added(self, f"{name}.bias", (outputs,), initial)
        return lambda rows: rows @ weight.T + bias


def _patch_uniform(size: ClipSize) -> Callable[..., Array]:
    """VPT's initial values: Xavier's bound for a patch embedding."""
    return uniform(math.sqrt(6 / (3 * size.patch_size**2 + size.vision.width)))


def _linear(module: LatentPrompts) -> Made:
    """P rows: the frames' prompts themselves, and by a linear layer the captions'.

    Variables: `text_prefix.weight [Dt, Dv]`, `text_prefix.bias`, and with
    `PromptConfig.postfix` the same of `text_postfix`, which nothing uses.
    """
    size = module.size
    rows = module.table(module.config.global_length, _patch_uniform(size))
    widths = size.vision.width, size.text.width
    prefix = module.linear("text_prefix", *widths)
    if module.config.postfix:
        module.linear("text_postfix", *widths)
    return Made(lambda: rows, lambda: prefix(rows))


def _transformer(module: LatentPrompts) -> Made:
    """P rows of captions before and behind the words, then P of each frame.

    A layer of CLIP runs over the rows of each layer of the towers, the same for all.
    The frames' prompts are its output, the captions' that of an MLP behind it. The rows
    behind the words are keys and values, so they change all others, but their own
    output reaches nothing and is not computed.

    Variables: `dgl.block.*`, under Hugging Face's names of a layer, and
    `dgl.text_mlp.fc1.*`, `dgl.text_mlp.fc2.*`.
    """
    size, length = module.size, module.config.global_length
    width, frames = size.vision.width, module.config.num_frames
    rows = module.table((2 + frames) * length, normal(1.0))
    run = _block(module, TowerSize(width, 1, size.vision.heads, 4 * width))
    widen = module.linear("dgl.text_mlp.fc1", width, 2 * width)
    narrow = module.linear("dgl.text_mlp.fc2", 2 * width, size.text.width)
    activation = ACTIVATIONS["quick_gelu"]

    def of_frames() -> Array:
        made = run(rows, slice(2 * length, None))
        return made.reshape(len(made), frames, length, width)

    return Made(of_frames, lambda: narrow(activation(widen(run(rows, slice(length))))))


def _block(
    module: LatentPrompts, size: TowerSize
) -> Callable[[Float[Array, "K R D"], slice], Array]:
    """Declares a layer of CLIP; (rows, which of them are computed) -> their outputs."""
    # PyTorch's for attention: Xavier over queries, keys and values as one matrix.
    xavier = uniform(math.sqrt(6 / (4 * size.width)))
    default, wide = uniform(size.width**-0.5), uniform(size.mlp**-0.5)
    zero, one = constant(0.0), constant(1.0)
    # Initial weight and bias.
    initial = {
        **{f"self_attn.{x}_proj": (xavier, zero) for x in "qkv"},
        "self_attn.out_proj": (default, zero),
        **{f"layer_norm{i}": (one, zero) for i in (1, 2)},
        **{"mlp.fc1": (default, default), "mlp.fc2": (wide, wide)},
    }
    weights = {}
    for name, shape in block_shapes(size).items():
        part, kind = name.rsplit(".", 1)
        first = initial[part][kind == "bias"]
        weights[name] = added(module, f"dgl.block.{name}", shape, first)
    params = block_params(size, weights)
    block = Block(size, parent=None)

    def run(rows: Float[Array, "K R D"], wanted: slice) -> Array:
        made: Any = block.apply(
            {"params": params}, rows[:, None], read=lambda x: x[:, :, wanted]
        )
        return made[0][:, 0]

    return run


# The forms of `config.LATENTS`.
FORMS: dict[str, Callable[[LatentPrompts], Made]] = {
    "linear": _linear,
    "transformer": _transformer,
}
