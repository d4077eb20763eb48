"""Attention of long sequences on a TPU with JAX's Splash attention kernel.

Joint attention (VoP-F) scores all tokens of a video against each other. XLA writes
these scores to memory; the kernel does not.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vop_jax.model.clip.attention import joined

# For shorter sequences the scores are small, and XLA's attention moves fewer bytes.
SHORTEST = 512
_LANES = 128
_LARGEST_BLOCK = 1024


def pays(query: Float[Array, "B G R H d"], mask: Any) -> bool:
    """Whether to use the kernel: for one long group of tokens without a mask."""
    return mask is None and query.shape[1] == 1 and query.shape[2] >= SHORTEST


def splash_attend(
    query: Float[Array, "B 1 R H d"],
    keys: Sequence[Array],
    values: Sequence[Array],
    *,
    interpret: bool = False,
) -> Float[Array, "B 1 R H d"]:
    """The same as `attention.attend` for one group of tokens and no mask.

    Args:
        query: already scaled.
        keys: the tokens' `[B, 1, S, H, d]` first, then the prompts' `[P, H, d]`,
            `[1, P, H, d]` or `[B, 1, P, H, d]`.
        values: of the same shapes.
        interpret: runs the kernel in Pallas' interpreter, on any device.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    batch, _, rows, heads, _ = query.shape
    key, value = (joined(parts, batch, 1)[:, 0] for parts in (keys, values))
    count = key.shape[2]
    q_block, q_length = _blocks(rows)
    kv_block, kv_length = _blocks(count)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([splash.FullMask((q_length, kv_length))] * heads),
        block_sizes=splash.BlockSizes(
            block_q=q_block,
            block_kv=kv_block,
            block_q_dkv=q_block,
            block_kv_dkv=kv_block,
            block_q_dq=q_block,
            block_kv_dq=kv_block,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )
    # Padding is a segment of its own, to which real rows do not attend.
    segments = splash.SegmentIds(
        q=(jnp.arange(q_length) < rows).astype(jnp.int32),
        kv=(jnp.arange(kv_length) < count).astype(jnp.int32),
    )

    def padded(x: Array, length: int) -> Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0)))

    mixed: Any = jax.vmap(lambda q, k, v: kernel(q, k, v, segments))(
        padded(query[:, 0].swapaxes(1, 2), q_length),
        padded(key, kv_length),
        padded(value, kv_length),
    )
    return mixed[:, :, :rows].swapaxes(1, 2)[:, None]


def _blocks(length: int) -> tuple[int, int]:
    """The block size with the least padding (the largest of equals), padded length."""
    sizes = range(_LANES, _LARGEST_BLOCK + 1, _LANES)
    padded, negative = min((-(-length // size) * size, -size) for size in sizes)
    return -negative, padded
