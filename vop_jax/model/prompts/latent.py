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
from typing import NamedTuple

from flax import linen as nn
from jaxtyping import Array, Float

from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.prompts.variables import added, uniform


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


# The forms of `config.LATENTS`.
FORMS: dict[str, Callable[[LatentPrompts], Made]] = {"linear": _linear}
