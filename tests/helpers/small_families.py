"""Small descriptions of each family, no two sizes of one equal."""

import dataclasses

from vop_jax.model.clip.sizes import (
    ClipSize,
    FrameRecipe,
    Rotary,
    TextSize,
    VisionSize,
)

HALF = (0.5, 0.4, 0.6)

SIGLIP = ClipSize(
    vision=VisionSize(
        24,
        4,
        3,
        40,
        "gelu_tanh",
        epsilon=1e-6,
        projection="none",
        class_token=False,
        patch_bias=True,
        pre_norm=False,
        pooling_heads=3,
    ),
    text=TextSize(
        16,
        3,
        2,
        28,
        "gelu_tanh",
        epsilon=1e-6,
        projection="biased",
        causal=False,
        reads="last",
    ),
    # The last 2 pixels of a side are in no patch.
    image_size=26,
    patch_size=8,
    vocabulary=50,
    context_length=10,
    embedding=24,
    eos_id=1,
    frames=FrameRecipe("squash", "bicubic", HALF, HALF),
    family="siglip",
    loss="sigmoid",
)
PE_CORE = ClipSize(
    vision=VisionSize(
        24,
        4,
        3,
        40,
        "gelu",
        rotary=Rotary(order="xy", offset=1.0),
        pooling_heads=2,
        pooling_mlp=36,
    ),
    text=TextSize(16, 3, 2, 28, "gelu"),
    image_size=24,
    patch_size=8,
    vocabulary=60,
    context_length=12,
    embedding=20,
    eos_id=59,
    frames=FrameRecipe("squash", "bilinear", HALF, HALF),
    family="pe_core",
)
PE_CORE_G = dataclasses.replace(
    PE_CORE,
    vision=dataclasses.replace(
        PE_CORE.vision, class_token=False, rotary=Rotary(order="xy")
    ),
)
EVA02 = ClipSize(
    vision=VisionSize(
        24,
        4,
        3,
        44,
        "silu",
        epsilon=1e-6,
        gated=True,
        attention_norm=True,
        key_bias=False,
        projection="biased",
        patch_bias=True,
        pre_norm=False,
        rotary=Rotary(grid=4),
    ),
    text=TextSize(16, 3, 2, 28, "gelu"),
    image_size=24,
    patch_size=8,
    vocabulary=60,
    context_length=12,
    embedding=20,
    eos_id=59,
    family="eva02_clip",
)
METACLIP_2 = ClipSize(
    vision=VisionSize(24, 4, 3, 40),
    text=TextSize(16, 3, 2, 28),
    image_size=24,
    patch_size=8,
    vocabulary=60,
    context_length=12,
    embedding=20,
    eos_id=2,
    family="metaclip_2",
)
FAMILIES = {
    "siglip": SIGLIP,
    "pe_core": PE_CORE,
    "pe_core_g": PE_CORE_G,
    "eva02": EVA02,
    "metaclip_2": METACLIP_2,
}
