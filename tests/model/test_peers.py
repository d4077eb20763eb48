"""Features of every family against the live towers of timm and open_clip."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest
import torch
from small_families import EVA02, PE_CORE, PE_CORE_G, SIGLIP

from vop_jax.model.clip.rotary import rotation_of, turn
from vop_jax.model.clip.sizes import Rotary

pytestmark = pytest.mark.slow
with peers.without_torchvision():
    pytest.importorskip("timm", reason="is in requirements-peers.txt")
    pytest.importorskip("open_clip", reason="is in requirements-peers.txt")
    from peer_towers import text_model, timm_model
    from timm.layers import apply_rot_embed_cat
    from timm.layers.pos_embed_sincos import RotaryEmbeddingCat

# timm refuses images of patches that are not complete.
WHOLE = dataclasses.replace(SIGLIP, image_size=24)


def exact(size):
    """With the GELU that timm's SigLIP has."""
    vision = dataclasses.replace(size.vision, activation="gelu")
    return dataclasses.replace(size, vision=vision)


def biased(size):
    """With the projection that timm's PE-Core has."""
    vision = dataclasses.replace(size.vision, projection="biased")
    return dataclasses.replace(size, vision=vision)


VISION = {
    "siglip": exact(WHOLE),
    "siglip2, tanh": WHOLE,
    "pe_core": biased(PE_CORE),
    "pe_core_g": biased(PE_CORE_G),
    "eva02": EVA02,
}


@pytest.mark.parametrize("name", VISION)
def test_vision_towers_of_timm(name):
    size = VISION[name]
    model = peers.shaken(timm_model(size))
    tower = peers.timm_vision(model, size)
    ours, frames, _ = peers.features(size, {"vision": tower})
    peers.same(ours["vision"], model(peers.pixels(frames, size.frames)))


@pytest.mark.parametrize("size", [SIGLIP, PE_CORE], ids=["siglip", "clip"])
def test_text_towers_of_open_clip(size):
    model = text_model(size)
    peers.shaken(model)
    ours, _, ids = peers.features(size, {"text": peers.open_clip_text(model, size)})
    peers.same(ours["text"], model(torch.tensor(ids).long()))


@pytest.mark.parametrize("order", ["ij", "xy"])
@pytest.mark.parametrize(("offset", "grid"), [(0.0, 0), (1.0, 0), (0.0, 16), (1.0, 7)])
def test_rotations_of_timm(order, offset, grid):
    side, width = 5, 12
    theirs = RotaryEmbeddingCat(
        width,
        in_pixels=False,
        feat_shape=[side, side],
        ref_feat_shape=[grid, grid] if grid else None,
        grid_offset=offset,
        grid_indexing=order,
    ).get_embed()
    x = np.random.default_rng(0).normal(size=(1, 1, side**2, 3, width))
    x = x.astype(np.float32)
    rotation = rotation_of(Rotary(order, offset, grid), side, width, before=0)
    got = turn(jnp.asarray(x), jax.tree.map(lambda y: y[None, None], rotation))
    heads = torch.tensor(x[0, 0]).permute(1, 0, 2)
    want = apply_rot_embed_cat(heads, theirs).permute(1, 0, 2).numpy()
    np.testing.assert_allclose(got[0, 0], want, atol=2e-6)
