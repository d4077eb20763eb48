"""Features of every family against the live towers of timm and open_clip."""

import dataclasses
from functools import partial

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
    from open_clip.transformer import LayerNorm, TextTransformer
    from timm.layers import apply_rot_embed_cat
    from timm.layers.pos_embed_sincos import RotaryEmbeddingCat
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

# timm refuses images of patches that are not complete.
WHOLE = dataclasses.replace(SIGLIP, image_size=24)


def timm_model(size):
    """Timm's vision tower of a description."""
    vision = size.vision
    common = {
        "img_size": size.image_size,
        "patch_size": size.patch_size,
        "embed_dim": vision.width,
        "depth": vision.layers,
        "num_heads": vision.heads,
        "class_token": vision.class_token,
        # Just over, so that its truncation to whole numbers hits.
        "mlp_ratio": (vision.mlp + 0.5) / vision.width,
    }
    if vision.rotary is None:
        return VisionTransformer(
            **common, num_classes=0, global_pool="map", act_layer=vision.activation
        )
    rotary = {
        "use_rot_pos_emb": True,
        "rope_grid_offset": vision.rotary.offset,
        "rope_grid_indexing": vision.rotary.order,
        "ref_feat_shape": (vision.rotary.grid or size.grid,) * 2,
        "num_classes": size.embedding,
    }
    if vision.gated:
        return Eva(
            **common,
            **rotary,
            qkv_fused=False,
            swiglu_mlp=True,
            scale_mlp=True,
            scale_attn_inner=True,
            global_pool="token",
        )
    return Eva(
        **common,
        **rotary,
        attn_type="rope",
        use_pre_transformer_norm=True,
        global_pool="map",
        attn_pool_num_heads=vision.pooling_heads,
        attn_pool_mlp_ratio=vision.pooling_mlp / vision.width,
        norm_layer=partial(LayerNorm, eps=vision.epsilon),
    )


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
    text = size.text
    tanh = {"approximate": "tanh"} if text.activation == "gelu_tanh" else {}
    kinds = {
        "last": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        "end": {"pool_type": "argmax"},
    }
    model = TextTransformer(
        context_length=size.context_length,
        vocab_size=size.vocabulary,
        width=text.width,
        heads=text.heads,
        layers=text.layers,
        mlp_ratio=text.mlp / text.width,
        output_dim=size.embedding,
        act_layer=partial(torch.nn.GELU, **tanh),
        norm_layer=partial(LayerNorm, eps=text.epsilon),
        **kinds[text.reads],
    )
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
