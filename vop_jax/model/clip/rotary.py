"""Rotary position embeddings in two dimensions (Su et al., 2021; EVA-02, PE).

A patch's query and key are turned, pair of channels by pair, by angles that grow with
its row (one half of the channels) and its column (the other half), so that a score
depends on how far apart two patches are.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vop_jax.model.clip.sizes import Rotary


class Rotation(NamedTuple):
    """The rotation of each row of a frame.

    Attributes:
        cos: the cosine of each channel's angle, `[..., S, d]`.
        sin: its sine, negative for the first channel of a pair.
    """

    cos: Array
    sin: Array


def rotation_of(rotary: Rotary, grid: int, width: int, before: int) -> Rotation:
    """The rotation of the rows of one frame.

    Args:
        rotary: the embedding's description.
        grid: the side of the frame's grid of patches.
        width: d, the width of a head, a multiple of 4.
        before: rows before the patches, which are not turned (the class token).

    Returns:
        Arrays `[before + grid^2, d]`, float32, made on the host.

    Raises:
        ValueError: the width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"heads of width {width} cannot be turned in two dimensions")
    places = np.arange(grid, dtype=np.float32) + np.float32(rotary.offset)
    if rotary.grid:
        places = places / grid * rotary.grid
    bands = rotary.temperature ** -(np.arange(width // 4, dtype=np.float32) * 4 / width)
    # [grid, d / 4]
    turned = places[:, None] * bands.astype(np.float32)
    by_row = np.broadcast_to(turned[:, None], (grid, grid, width // 4))
    by_column = np.broadcast_to(turned[None], (grid, grid, width // 4))
    halves = {"ij": (by_row, by_column), "xy": (by_column, by_row)}[rotary.order]
    angles = np.concatenate(halves, axis=-1).reshape(grid * grid, width // 2)
    angles = np.pad(angles, ((before, 0), (0, 0)))
    signs = np.tile(np.array([-1, 1], np.float32), width // 2)
    cos, sin = (np.repeat(f(angles), 2, axis=-1) for f in (np.cos, np.sin))
    return Rotation(jnp.asarray(cos), jnp.asarray(sin * signs))


def turn(
    rows: Float[Array, "B G R H d"], rotation: Rotation
) -> Float[Array, "B G R H d"]:
    """Turns queries or keys, in float32.

    Args:
        rows: the queries or keys.
        rotation: of each row, `[B, G, R, d]`.
    """
    wide = rows.astype(jnp.float32)
    # Each channel with the other one of its pair, by shifts along the last axis: an
    # axis of two would waste most of a TPU's registers.
    even = jnp.arange(rows.shape[-1]) % 2 == 0
    other = jnp.where(even, jnp.roll(wide, -1, -1), jnp.roll(wide, 1, -1))
    cos, sin = (x[..., None, :] for x in rotation)
    return (wide * cos + other * sin).astype(rows.dtype)
