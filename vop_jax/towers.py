"""CLIP's two towers over a plan of prompted layers."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt8

from vop_jax.adapters import Adapters
from vop_jax.layers import Block, LayerNorm
from vop_jax.prompts import (
    PromptConfig,
    Segment,
    TextPrompts,
    VideoPrompts,
    bind,
    rows_of,
)
from vop_jax.remat import remat
from vop_jax.shares import gather, split
from vop_jax.sizes import ClipSize, TowerSize
from vop_jax.text_layout import arrange

ATTENTIONS = ("auto", "xla", "splash")
# OpenAI's CLIP pixel statistics, per channel of an image in [0, 1].
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    """How the towers compute; none of it changes the function.

    Attributes:
        dtype: `float32` or `bfloat16`; LayerNorm and softmax are float32 in both.
        scan: whether layers run as one compiled loop (small program, quick to
            compile) or one after another (larger, lets the compiler specialise).
        remat: what a layer keeps for the way back, see `vop_jax.remat`.
        attention: `xla`, `splash` (a TPU's kernel, where it pays), or `auto`: what the
            device has.
    """

    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    attention: str = "auto"

    def on(self, platform: str) -> "ComputeConfig":
        """The same with `auto` decided.

        Args:
            platform: JAX's name of the devices' platform.
        """
        if self.attention != "auto":
            return self
        attention = "splash" if platform == "tpu" else "xla"
        return dataclasses.replace(self, attention=attention)


def _layer(block, whole, additions, tokens, layer, **kwargs):
    """One layer: its parameters or a share of them, and its rows of what is added."""
    params, rows = layer
    params = gather(params, whole)
    bound = bind(additions, rows)
    for update in bound.updates:
        tokens = update(tokens)
    prompts = [make(tokens) for make in bound.prompts]
    return block.apply(
        {"params": params}, tokens, prompts, beside=bound.beside, **kwargs
    )


def _run_alike(layer, stacked, tokens, *, looped: bool):
    """Runs layers that are alike, stacked on the leading axis."""
    if looped:
        return jax.lax.scan(lambda x, one: (layer(x, one), None), tokens, stacked)[0]
    for i in range(jax.tree.leaves(stacked)[0].shape[0]):
        tokens = layer(tokens, jax.tree.map(operator.itemgetter(i), stacked))
    return tokens


def run_layers(
    block: Block,
    whole: Any,
    stacked: Any,
    last: Any,
    tokens: Float[Array, "B G S D"],
    plan: Sequence[Segment],
    *,
    compute: ComputeConfig,
    mask: Array | None = None,
    read: Callable[[Array], Array] | None = None,
    read_mask: Array | None = None,
    enter_joint: Callable[[Array], Array] | None = None,
) -> Array:
    """Runs a tower's layers by its plan.

    Args:
        block: the layer.
        whole: shapes of one layer's parameters.
        stacked: parameters of all layers but the last, with a leading layer axis;
            whole, or this device's share of them.
        last: parameters of the last layer, the same.
        tokens: what enters layer 1.
        plan: runs of layers that are alike, covering all layers.
        compute: how the layers run.
        mask: which tokens each row may see, in all layers but the last.
        read: picks the rows that leave the last layer.
        read_mask: which tokens those rows may see.
        enter_joint: regroups the tokens before the first joint layer.

    Returns:
        The rows that leave the last layer.
    """
    layers, joint = plan[-1].stop, False
    kept = functools.partial(remat, name=compute.remat, split=split(last, whole))
    for segment in plan:
        if segment.joint and not joint and enter_joint is not None:
            tokens, joint = enter_joint(tokens), True
        layer = functools.partial(_layer, block, whole, segment.additions)
        rows = rows_of(segment.additions)
        stop = min(segment.stop, layers - 1)
        if stop > segment.start:
            looped = compute.scan and stop - segment.start > 1
            tokens = _run_alike(
                kept(functools.partial(layer, mask=mask), looped=looped),
                (
                    # The whole of an axis costs nothing; a part of it may be a copy.
                    jax.tree.map(
                        operator.itemgetter(slice(segment.start, stop)), stacked
                    ),
                    jax.tree.map(
                        operator.itemgetter(slice(stop - segment.start)), rows
                    ),
                ),
                tokens,
                looped=looped,
            )
        if segment.stop == layers:
            row = jax.tree.map(lambda x: x[-1], rows)
            layer = functools.partial(layer, mask=read_mask, read=read)
            tokens = kept(layer, looped=False)(tokens, (last, row))
    return tokens


class _Tower(nn.Module):
    """What both towers have: a stack of layers whose last one is stored apart.

    The last layer is run for one row alone and is what the `partial` baseline trains,
    so it is a leaf of its own; the others are stacked for the compiled loop.
    """

    size: ClipSize
    prompt_config: PromptConfig
    compute: ComputeConfig

    def make_layers(self, size: TowerSize) -> None:
        """Declares `layers` and `last_layer`."""
        compute = self.compute
        self.block = Block(
            size,
            jnp.dtype(compute.dtype),
            compute.attention == "splash",
            parent=None,
        )
        sample = jnp.zeros((1, 1, 1, size.width))

        def one(key):
            return self.block.init(key, sample)["params"]

        self.whole_layer = jax.eval_shape(one, jax.random.key(0))
        self.layers = self.stored(
            "layers", lambda key: jax.vmap(one)(jax.random.split(key, size.layers - 1))
        )
        self.last_layer = self.stored("last_layer", one)

    def stored(self, name: str, initial: Callable[..., Any]) -> Any:
        """A parameter that may be a share of itself, so that its shape is not held."""
        if self.is_initializing():
            return self.param(name, initial)
        return self.get_variable("params", name)

    def make_adapters(self, size: TowerSize) -> None:
        """Declares `adapters`, None where there are none."""
        config = self.prompt_config
        first, last = config.prompted(size.layers)
        self.adapters = None
        if config.adapter:
            self.adapters = Adapters(
                config.adapter, last - first, size.width, config.adapter_width
            )

    def norm(self, size: TowerSize, name: str) -> LayerNorm:
        """A LayerNorm of the tower's width."""
        return LayerNorm(size.epsilon, dtype=jnp.dtype(self.compute.dtype), name=name)


def _normal(deviation: float) -> Callable[..., Array]:
    return nn.initializers.normal(deviation)


class VisionTower(_Tower):
    """Frames to frame features."""

    def setup(self):
        """Declares the parts."""
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
        """Patches, class token and positions; S = 1 + M.

        (x/255 - mean)/deviation is folded into the patch embedding's weights, so the
        bytes themselves are what the device is sent.
        """
        dtype = jnp.dtype(self.compute.dtype)
        batch, count, height, width, _ = frames.shape
        patch = self.size.patch_size
        if (height, width) != (self.size.image_size, self.size.image_size):
            raise ValueError(
                f"frames are {height}x{width} pixels; this CLIP takes "
                f"{self.size.image_size}x{self.size.image_size}"
            )
        deviation = jnp.asarray(PIXEL_DEVIATION)[:, None]
        kernel = self.patch_embedding / (255.0 * deviation)
        bias = -jnp.sum(
            self.patch_embedding * (jnp.asarray(PIXEL_MEAN)[:, None] / deviation),
            axis=(0, 1, 2),
        )
        rows, columns = height // patch, width // patch
        patches = frames.reshape(batch, count, rows, patch, columns, patch, 3)
        patches = patches.swapaxes(3, 4).reshape(batch, count, rows * columns, -1)
        # [B, F, M, D]
        tokens = (
            jnp.einsum(
                "bfmp,pd->bfmd",
                patches.astype(dtype),
                kernel.reshape(-1, kernel.shape[-1]).astype(dtype),
                preferred_element_type=jnp.float32,
            )
            + bias
        )
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
            # The class row of each frame, in either grouping.
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
    """Captions to caption features."""

    def setup(self):
        """Declares the parts."""
        size = self.size.text
        shape = (self.size.vocabulary, size.width)
        self.token_embedding = self.stored(
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

        N may be any bucket up to the context length: the tower is causal, so padding
        behind the EOT token cannot reach it. Where prompts stand among the words it is
        the row that many behind the EOT token, see `text_layout`.
        """
        dtype = jnp.dtype(self.compute.dtype)
        slots = self.prompt_config.text_slots(self.size.context_length)
        end = jnp.argmax(ids == self.size.eos_id, axis=-1) + len(slots)
        ids = arrange(ids, slots, self.size.context_length)
        length = ids.shape[1]
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
