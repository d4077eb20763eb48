"""The vision and text towers, with prompted layers.

What a tower is made of is said by its description, part by part; see
`vop_jax.model.clip.sizes`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt8

from vop_jax.devices.sharded_params import gather, is_sharded
from vop_jax.model.clip.pooling import Pooling
from vop_jax.model.clip.precision import Precision
from vop_jax.model.clip.products import product
from vop_jax.model.clip.remat import remat
from vop_jax.model.clip.rotary import rotation_of
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.layer_stack import run_layers
from vop_jax.model.prompts.fusion import class_rows, read_rows
from vop_jax.model.prompts.merging import Merging, unmerged
from vop_jax.model.prompts.mv_adapter import CaptionAdapters, VideoAdapters
from vop_jax.model.prompts.sources import TextPrompts, VideoPrompts, arrange
from vop_jax.model.tower import Tower, normal


def _unchanged(rows: Array) -> Array:
    """In the place of a LayerNorm that a tower does not have."""
    return rows


class VisionTower(Tower):
    """The vision tower: frames to frame features, or to one of the video."""

    def setup(self):
        """Declares the submodules."""
        size = self.size.vision
        patch = self.size.patch_size
        deviation = size.width**-0.5
        self.patch_embedding = self.param(
            "patch_embedding", normal(deviation), (patch, patch, 3, size.width)
        )
        self.patch_bias = self.class_embedding = None
        if size.patch_bias:
            self.patch_bias = self.param(
                "patch_bias", nn.initializers.zeros, (size.width,)
            )
        if size.class_token:
            self.class_embedding = self.param(
                "class_embedding", normal(deviation), (size.width,)
            )
        self.position_embedding = self.param(
            "position_embedding", normal(deviation), (self.size.tokens, size.width)
        )
        self.ln_pre = self.norm(size, "ln_pre") if size.pre_norm else _unchanged
        self.make_layers(size)
        self.ln_post = self.norm(size, "ln_post")
        self.make_pooling()
        self.make_projection(size)
        self.prompts = VideoPrompts(self.prompt_config, size)
        self.make_beside(size, VideoAdapters)
        self.make_fusion(size, self.prompt_config.fusion_layers)
        self.merge = None
        if self.prompt_config.merge_layers:
            self.merge = Merging(self.prompt_config, size.width)

    def make_pooling(self) -> None:
        """Declares `pooling`, if the tower pools its rows."""
        size = self.size.vision.pooling
        self.pooling = None
        if size is not None:
            self.pool = Pooling(size, self.compute.precision, parent=None)
            sample = jnp.zeros((1, 1, 1, size.width))

            def initial(key):
                return self.pool.init(key, sample)["params"]

            self.whole_pooling = jax.eval_shape(initial, jax.random.key(0))
            self.pooling = self.declare_sharded("pooling", initial)

    def pooled(self, rows: Float[Array, "B F S D"]) -> Float[Array, "B F D"]:
        """The rows of each frame, pooled to one."""

        def run(params, rows):
            return self.pool.apply({"params": gather(params, self.whole_pooling)}, rows)

        sharded = is_sharded(self.pooling, self.whole_pooling)
        saving = remat(run, self.compute.remat, is_sharded=sharded, looped=False)
        return saving(self.pooling, rows)

    def embed(self, frames: UInt8[Array, "B F H W 3"]) -> Float[Array, "B F S D"]:
        """The tokens that enter layer 1: the class token, if there is one, and patches.

        The pixel normalisation (x/255 - mean)/std is folded into the weights of the
        patch embedding, so the devices are sent uint8 frames.
        """
        batch, count, height, width, _ = frames.shape
        patch, recipe = self.size.patch_size, self.size.frames
        if (height, width) != (self.size.image_size, self.size.image_size):
            raise ValueError(
                f"frames are {height}x{width} pixels; this model takes "
                f"{self.size.image_size}x{self.size.image_size}"
            )
        # The normalisation as part of the kernel and a bias.
        deviation = jnp.asarray(recipe.deviation)[:, None]
        kernel = self.patch_embedding / (255.0 * deviation)
        bias = -jnp.sum(
            self.patch_embedding * (jnp.asarray(recipe.mean)[:, None] / deviation),
            axis=(0, 1, 2),
        )
        if self.patch_bias is not None:
            bias = bias + self.patch_bias
        # Non-overlapping patches as rows, so that the convolution is a product. Pixels
        # beyond the last complete patch are not seen (384 pixels in patches of 14).
        grid = self.size.grid
        frames = frames[:, :, : grid * patch, : grid * patch]
        patches = frames.reshape(batch, count, grid, patch, grid, patch, 3)
        patches = patches.swapaxes(3, 4).reshape(batch, count, grid * grid, -1)
        # [B, F, M, D]
        wide = Precision(self.compute.precision.operands, "float32")
        patches = patches.astype(wide.operands)
        tokens = product(patches, kernel.reshape(-1, kernel.shape[-1]), wide) + bias
        if self.class_embedding is not None:
            first = jnp.broadcast_to(
                self.class_embedding, (batch, count, 1, tokens.shape[-1])
            )
            tokens = jnp.concatenate([first, tokens], axis=2)
        tokens = self.ln_pre(tokens + self.position_embedding)
        return tokens.astype(self.compute.precision.results)

    def __call__(self, frames: UInt8[Array, "B F H W 3"]) -> Float[Array, "B R E"]:
        """The embeddings of each video, not normalised, float32.

        There is one of each frame (R = F), made of the class token's row, which is then
        the only one that the last layer computes, or of all rows by attention pooling.
        With global prompts there is one of the video (R = 1), that of the first of
        them, and the last layer computes no other row. With joined frames their class
        tokens are the first rows of the one group that is left.
        """
        tokens = self.embed(frames)
        batch, count, length, width = tokens.shape
        size = self.size.vision

        def join(tokens: Array) -> Array:
            positions = jnp.asarray(self.prompts.frame_positions)[:, None]
            tokens = tokens + positions.astype(tokens.dtype)
            return tokens.reshape(batch, 1, count * length, width)

        # What is read: the first rows of so many parts of the tokens, as many of each.
        parts, first = count, 1

        def read(tokens: Array) -> Array:
            # Each frame's class token, whether frames are grouped jointly or not.
            rows = tokens.reshape(batch, parts, -1, tokens.shape[-1])[:, :, :first]
            return rows.reshape(batch, tokens.shape[1], -1, tokens.shape[-1])

        made = carried = sizes = None
        if self.shared is not None:
            made, carried = self.shared.frame_prompts(), self.shared.global_rows()
            carried = jnp.broadcast_to(carried, (batch, 1, *carried.shape))
            carried = carried.astype(tokens.dtype)
            # They are read as the tokens of a frame are: the first of them alone.
            count = parts = 1

        rotation = None
        if size.rotary is not None:
            rotation = rotation_of(
                size.rotary,
                self.size.grid,
                size.width // size.heads,
                before=int(size.class_token),
            )

        plan = self.prompts.plan(self.ln_pre, self.beside(size), made, self.fused(size))
        if self.merge is not None:
            plan, sizes = self.merge(plan, count, length), unmerged(tokens)
            parts, first = 1, count
        rows = run_layers(
            self.block,
            self.whole_layer,
            self.layers,
            self.last_layer,
            tokens,
            plan,
            compute=self.compute,
            read=read if self.pooling is None else None,
            enter_joint=join,
            rotation=rotation,
            carried=carried,
            across=class_rows(),
            sizes=sizes,
        )
        rows = self.ln_post(rows.reshape(batch, count, -1, width))
        rows = rows[:, :, 0] if self.pooling is None else self.pooled(rows)
        return self.project(rows)


def _end(size: ClipSize, ids: Int[Array, "B G N"]) -> Int[Array, "B G"]:
    return jnp.argmax(ids == size.eos_id, axis=-1)


def _last(size: ClipSize, ids: Int[Array, "B G N"]) -> Int[Array, "B G"]:
    return jnp.full(ids.shape[:-1], size.context_length - 1)


# The values of `TextSize.reads` -> the position of the row that is read.
READS: dict[str, Callable[[ClipSize, Array], Array]] = {"end": _end, "last": _last}


class TextTower(Tower):
    """The text tower: captions to caption features."""

    def setup(self):
        """Declares the submodules."""
        size = self.size.text
        shape = (self.size.vocabulary, size.width)
        self.token_embedding = self.declare_sharded(
            "token_embedding", lambda key: normal(0.02)(key, shape)
        )
        self.position_embedding = self.param(
            "position_embedding", normal(0.01), (self.size.context_length, size.width)
        )
        self.make_layers(size)
        self.ln_final = self.norm(size, "ln_final")
        self.make_projection(size)
        self.prompts = TextPrompts(self.prompt_config, size)
        self.make_beside(size, CaptionAdapters)
        self.make_fusion(size, self.prompt_config.fusion_text_layers)

    def __call__(self, ids: Int[Array, "B N"]) -> Float[Array, "B E"]:
        """The embedding of each caption, not normalised, float32.

        If the tower is causal and reads the EOT token, N may be any bucket length up to
        the context length: that token does not see the padding after it. Else (see
        `ClipSize.full_captions`) N is the context length, padding included. With
        prompts among the words (see `text_layout`) the row read is as many rows after
        EOT as there are prompts.
        """
        return self.groups(ids[:, None], fuse=False)[:, 0]

    def of_frames(self, ids: Int[Array, "B F N"]) -> Float[Array, "B F E"]:
        """The embedding of the caption of each frame of videos, as of `__call__`.

        In the last layers those of one video see each other, see `Fusion`.
        """
        return self.groups(ids, fuse=True)

    def groups(self, ids: Int[Array, "B G N"], *, fuse: bool) -> Float[Array, "B G E"]:
        """The embeddings of captions in groups.

        Args:
            ids: the captions.
            fuse: whether those of a group see each other.
        """
        dtype, size = self.compute.precision.results, self.size.text
        slots = self.prompt_config.text_slots(self.size.context_length)
        if self.size.full_captions and ids.shape[-1] != self.size.context_length:
            raise ValueError(
                f"captions have {ids.shape[-1]} tokens; this model takes "
                f"{self.size.context_length}, padding included"
            )
        end = READS[size.reads](self.size, ids) + len(slots)
        batch, count = ids.shape[:2]
        ids = arrange(ids.reshape(batch * count, -1), slots, self.size.context_length)
        length = ids.shape[-1]
        # The embedding table is gathered for this look-up alone.
        whole = jax.ShapeDtypeStruct(
            (self.size.vocabulary, self.size.text.width), jnp.float32
        )
        table = gather(self.token_embedding, whole)
        tokens = jnp.take(table, ids, axis=0)
        tokens = tokens + self.position_embedding[:length]
        # [B, G, N, D]
        tokens = tokens.astype(dtype).reshape(batch, count, length, -1)
        index = jnp.arange(length)
        mask = index[:, None] >= index if size.causal else None
        made = None
        if self.shared is not None:
            made = self.shared.text_prompts()
            # They stand behind the SOT token, which does not see them.
            seen = jnp.broadcast_to(index[:, None] > 0, (length, made.shape[1]))
            mask = jnp.concatenate([index[:, None] >= index, seen], axis=1)
        fused = self.fused(size)
        rows = run_layers(
            self.block,
            self.whole_layer,
            self.layers,
            self.last_layer,
            tokens,
            self.prompts(
                self.position_embedding,
                self.beside(size),
                made,
                fused if fuse else None,
            ),
            compute=self.compute,
            mask=mask,
            read=lambda x: jnp.take_along_axis(x, end[..., None, None], axis=2),
            read_mask=(
                (index <= end[..., None])[:, :, None, None] if size.causal else None
            ),
            across=read_rows(end, length, causal=size.causal),
        )
        return self.project(self.ln_final(rows[:, :, 0]))
