"""CLIP's vision and text towers, with prompted layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt8

from vop_jax.devices.sharded_params import gather
from vop_jax.model.clip.layers import Block, LayerNorm
from vop_jax.model.clip.precision import Precision
from vop_jax.model.clip.products import product
from vop_jax.model.clip.sizes import PIXEL_DEVIATION, PIXEL_MEAN, ClipSize, TowerSize
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.layer_stack import run_layers
from vop_jax.model.prompts.adapters import Adapters
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.prompts.sources import TextPrompts, VideoPrompts, arrange


class _Tower(nn.Module):
    """What both towers share: stacked layers, and the last layer on its own.

    The last layer computes only the row that is read, and the `partial` baseline trains
    it alone, so it has parameters of its own; the others are stacked for `lax.scan`.
    """

    size: ClipSize
    prompt_config: PromptConfig
    compute: ComputeConfig

    def make_layers(self, size: TowerSize) -> None:
        """Declares `layers` and `last_layer`."""
        compute = self.compute
        self.block = Block(
            size,
            compute.precision,
            compute.attention == "splash",
            parent=None,
        )
        sample = jnp.zeros((1, 1, 1, size.width))

        def one(key):
            return self.block.init(key, sample)["params"]

        self.whole_layer = jax.eval_shape(one, jax.random.key(0))
        self.layers = self.declare_sharded(
            "layers", lambda key: jax.vmap(one)(jax.random.split(key, size.layers - 1))
        )
        self.last_layer = self.declare_sharded("last_layer", one)

    def declare_sharded(self, name: str, initial: Callable[..., Any]) -> Any:
        """Declares a parameter that may be an FSDP shard.

        Flax compares the shape of a `param` with its initializer's, which that of a
        shard differs from; so beyond initialisation the variable is read unchecked.
        """
        if self.is_initializing():
            return self.param(name, initial)
        return self.get_variable("params", name)

    def make_adapters(self, size: TowerSize) -> None:
        """Declares `adapters`; None if the method has none."""
        config = self.prompt_config
        first, last = config.prompted(size.layers)
        self.adapters = None
        if config.adapter:
            self.adapters = Adapters(
                config.adapter, last - first, size.width, config.adapter_width
            )

    def norm(self, size: TowerSize, name: str) -> LayerNorm:
        """A LayerNorm of the tower's width."""
        results = self.compute.precision.results
        return LayerNorm(size.epsilon, dtype=results, name=name)


def _normal(std: float) -> Callable[..., Array]:
    return nn.initializers.normal(std)


class VisionTower(_Tower):
    """CLIP's vision tower: frames to frame features."""

    def setup(self):
        """Declares the submodules."""
        size = self.size.vision
        patch = self.size.patch_size
        deviation = size.width**-0.5
        self.patch_embedding = self.param(
            "patch_embedding", _normal(deviation), (patch, patch, 3, size.width)
        )
        self.class_embedding = self.param(
            "class_embedding", _normal(deviation), (size.width,)
        )
        self.position_embedding = self.param(
            "position_embedding",
            _normal(deviation),
            (1 + self.size.patches, size.width),
        )
        self.ln_pre = self.norm(size, "ln_pre")
        self.make_layers(size)
        self.ln_post = self.norm(size, "ln_post")
        self.projection = self.param(
            "projection", _normal(deviation), (size.width, self.size.embedding)
        )
        self.prompts = VideoPrompts(self.prompt_config, size)
        self.make_adapters(size)

    def embed(self, frames: UInt8[Array, "B F H W 3"]) -> Float[Array, "B F S D"]:
        """The tokens that enter layer 1: class token and patches; S = 1 + M.

        The pixel normalisation (x/255 - mean)/std is folded into the weights of the
        patch embedding, so the devices are sent uint8 frames.
        """
        batch, count, height, width, _ = frames.shape
        patch = self.size.patch_size
        if (height, width) != (self.size.image_size, self.size.image_size):
            raise ValueError(
                f"frames are {height}x{width} pixels; this CLIP takes "
                f"{self.size.image_size}x{self.size.image_size}"
            )
        # The normalisation as part of the kernel and a bias.
        deviation = jnp.asarray(PIXEL_DEVIATION)[:, None]
        kernel = self.patch_embedding / (255.0 * deviation)
        bias = -jnp.sum(
            self.patch_embedding * (jnp.asarray(PIXEL_MEAN)[:, None] / deviation),
            axis=(0, 1, 2),
        )
        # Non-overlapping patches as rows, so that the convolution is a product.
        rows, columns = height // patch, width // patch
        patches = frames.reshape(batch, count, rows, patch, columns, patch, 3)
        patches = patches.swapaxes(3, 4).reshape(batch, count, rows * columns, -1)
        # [B, F, M, D]
        wide = Precision(self.compute.precision.operands, "float32")
        patches = patches.astype(wide.operands)
        tokens = product(patches, kernel.reshape(-1, kernel.shape[-1]), wide) + bias
        first = jnp.broadcast_to(
            self.class_embedding, (batch, count, 1, tokens.shape[-1])
        )
        tokens = jnp.concatenate([first, tokens], axis=2) + self.position_embedding
        return self.ln_pre(tokens)

    def __call__(self, frames: UInt8[Array, "B F H W 3"]) -> Float[Array, "B F E"]:
        """The projected class token of each frame, not normalised, float32."""
        tokens = self.embed(frames)
        batch, count, length, width = tokens.shape

        def join(tokens: Array) -> Array:
            positions = jnp.asarray(self.prompts.frame_positions)[:, None]
            tokens = tokens + positions.astype(tokens.dtype)
            return tokens.reshape(batch, 1, count * length, width)

        def read(tokens: Array) -> Array:
            # Each frame's class token, whether frames are grouped jointly or not.
            rows = tokens.reshape(batch, count, length, width)[:, :, :1]
            return rows.reshape(batch, tokens.shape[1], -1, width)

        rows = run_layers(
            self.block,
            self.whole_layer,
            self.layers,
            self.last_layer,
            tokens,
            self.prompts.plan(self.ln_pre, self.adapters),
            compute=self.compute,
            read=read,
            enter_joint=join,
        )
        rows = self.ln_post(rows.reshape(batch, count, width))
        return (rows @ self.projection.astype(rows.dtype)).astype(jnp.float32)


class TextTower(_Tower):
    """CLIP's text tower: captions to caption features."""

    def setup(self):
        """Declares the submodules."""
        size = self.size.text
        shape = (self.size.vocabulary, size.width)
        self.token_embedding = self.declare_sharded(
            "token_embedding", lambda key: _normal(0.02)(key, shape)
        )
        self.position_embedding = self.param(
            "position_embedding", _normal(0.01), (self.size.context_length, size.width)
        )
        self.make_layers(size)
        self.ln_final = self.norm(size, "ln_final")
        self.projection = self.param(
            "projection", _normal(size.width**-0.5), (size.width, self.size.embedding)
        )
        self.prompts = TextPrompts(self.prompt_config, size)
        self.make_adapters(size)

    def __call__(self, ids: Int[Array, "B N"]) -> Float[Array, "B E"]:
        """The projected EOT token of each caption, not normalised, float32.

        N may be any bucket length up to the context length: the tower is causal, so
        the EOT token does not see the padding after it. With prompts among the words
        (see `text_layout`) the row read is as many rows after EOT as there are prompts.
        """
        dtype = self.compute.precision.results
        slots = self.prompt_config.text_slots(self.size.context_length)
        end = jnp.argmax(ids == self.size.eos_id, axis=-1) + len(slots)
        ids = arrange(ids, slots, self.size.context_length)
        length = ids.shape[1]
        # The embedding table is gathered for this look-up alone.
        whole = jax.ShapeDtypeStruct(
            (self.size.vocabulary, self.size.text.width), jnp.float32
        )
        table = gather(self.token_embedding, whole)
        tokens = jnp.take(table, ids, axis=0)
        tokens = tokens + self.position_embedding[:length]
        # [B, 1, N, D]
        tokens = tokens.astype(dtype)[:, None]
        index = jnp.arange(length)
        rows = run_layers(
            self.block,
            self.whole_layer,
            self.layers,
            self.last_layer,
            tokens,
            self.prompts(self.position_embedding, self.adapters),
            compute=self.compute,
            mask=index[:, None] >= index,
            read=lambda x: jnp.take_along_axis(x, end[:, None, None, None], axis=2),
            read_mask=(index <= end[:, None])[:, None, None, None],
        )
        rows = self.ln_final(rows[:, 0, 0])
        return (rows @ self.projection.astype(rows.dtype)).astype(jnp.float32)
