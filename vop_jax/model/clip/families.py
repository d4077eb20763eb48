"""The descriptions of known backbones, by short name.

A row is data: every part of a tower decides by a field of the description. Sizes are
those of open_clip's model configurations and timm's vision towers; the activation of
SigLIP is the one of the weights on the Hugging Face hub (tanh). A file that is read
brings its own description, so a row serves planning, counting and hub names.
"""

import dataclasses
from typing import Any

from vop_jax.model.clip.sizes import (
    ClipSize,
    FrameRecipe,
    Rotary,
    TextSize,
    VisionSize,
)

# What SigLIP and PE-Core normalise pixels with.
_HALF: tuple[float, float, float] = (0.5, 0.5, 0.5)
_SQUASH = FrameRecipe(resize="squash")


def _fields(usual: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A family's fields of `ClipSize`, with a model's own in the place of some."""
    return usual | own


def _openai(
    vision: tuple[int, int],
    text: tuple[int, int],
    image_size: int,
    patch_size: int,
    activation: str = "quick_gelu",
    **fields: Any,
) -> ClipSize:
    """OpenAI's proportions: heads of width 64, an MLP of 4 times the width.

    Args:
        vision: width and layers.
        text: width and layers; its width is that of the embedding too.
        image_size: pixels.
        patch_size: pixels.
        activation: of both towers.
        **fields: of `ClipSize`, with another value than its default.
    """
    return ClipSize(
        VisionSize(*vision, vision[0] // 64, 4 * vision[0], activation),
        TextSize(*text, text[0] // 64, 4 * text[0], activation),
        image_size,
        patch_size,
        **_fields({"embedding": text[0]}, fields),
    )


def _large(
    vision: VisionSize, text: tuple[int, int], image_size: int = 224, **fields: Any
) -> ClipSize:
    """A vision tower that has not OpenAI's proportions, with patches of 14 pixels.

    Args:
        vision: the vision tower.
        text: width and layers of a text tower in OpenAI's proportions, with the vision
            tower's activation.
        image_size: pixels.
        **fields: of `ClipSize`, with another value than its default.
    """
    size = _openai((64, 2), text, image_size, 14, vision.activation, **fields)
    return dataclasses.replace(size, vision=vision)


def _h14(activation: str = "gelu", **fields: Any) -> ClipSize:
    return _large(
        VisionSize(1280, 32, 16, 5120, activation),
        (1024, 24),
        **fields,
    )


def _bigg14(activation: str = "gelu", **fields: Any) -> ClipSize:
    return _large(VisionSize(1664, 48, 16, 8192, activation), (1280, 32), **fields)


def _metaclip_2(size: ClipSize) -> ClipSize:
    """The same towers with XLM-V's vocabulary."""
    return dataclasses.replace(size, vocabulary=901_629, eos_id=2, family="metaclip_2")


# Width, layers, heads and MLP of SigLIP's towers; both are alike but for `giant`.
_SIGLIP_TOWERS = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giant": (1536, 40, 16, 6144),
    "demo": (64, 4, 2, 256),
    "demo text": (64, 3, 2, 256),
}


def _siglip(
    tower: str, image_size: int, patch_size: int, text: str = "", **fields: Any
) -> ClipSize:
    """A SigLIP of fixed resolution.

    Args:
        tower: of `_SIGLIP_TOWERS`.
        image_size: pixels.
        patch_size: pixels.
        text: the text tower; empty for the same.
        **fields: of `ClipSize`, with another value than a SigLIP's.
    """
    vision, words = (_SIGLIP_TOWERS[name] for name in (tower, text or tower))
    return ClipSize(
        VisionSize(
            *vision,
            "gelu_tanh",
            epsilon=1e-6,
            projection="none",
            class_token=False,
            patch_bias=True,
            pre_norm=False,
            pooling_heads=vision[2],
        ),
        TextSize(
            *words,
            "gelu_tanh",
            epsilon=1e-6,
            projection="biased",
            causal=False,
            reads="last",
        ),
        image_size,
        patch_size,
        **_fields(
            {
                "vocabulary": 32_000,
                "context_length": 64,
                "embedding": vision[0],
                "eos_id": 1,
                "frames": FrameRecipe("squash", "bicubic", _HALF, _HALF),
                "family": "siglip",
                "loss": "sigmoid",
            },
            fields,
        ),
    )


def _siglip2(tower: str, image_size: int, patch_size: int, text: str = "") -> ClipSize:
    """The same towers with Gemma's vocabulary; arguments as of `_siglip`."""
    return _siglip(
        tower, image_size, patch_size, text, vocabulary=256_000, family="siglip2"
    )


def _pe_core(
    vision: tuple[int, int, int, int],
    text: tuple[int, int],
    image_size: int,
    patch_size: int,
    **fields: Any,
) -> ClipSize:
    """A PE-Core (Perception Encoder).

    Args:
        vision: width, layers, heads and MLP.
        text: width and layers of a text tower in OpenAI's proportions.
        image_size: pixels.
        patch_size: pixels.
        **fields: of `ClipSize`, with another value than a PE-Core's.
    """
    return ClipSize(
        VisionSize(
            *vision,
            "gelu",
            rotary=Rotary(order="xy", offset=1.0),
            pooling_heads=8,
            pooling_mlp=4 * vision[0],
        ),
        TextSize(*text, text[0] // 64, 4 * text[0], "gelu"),
        image_size,
        patch_size,
        **_fields(
            {
                "context_length": 32,
                "embedding": text[0],
                "frames": FrameRecipe("squash", "bilinear", _HALF, _HALF),
                "family": "pe_core",
            },
            fields,
        ),
    )


def _pe_core_g14() -> ClipSize:
    """PE-Core G/14: no class token, and rotary places that count from 0."""
    size = _pe_core((1536, 50, 16, 8960), (1280, 24), 448, 14, context_length=72)
    vision = dataclasses.replace(
        size.vision, class_token=False, rotary=Rotary(order="xy")
    )
    return dataclasses.replace(size, vision=vision)


def _eva02(
    vision: tuple[int, int, int, int],
    text: tuple[int, int],
    image_size: int,
    patch_size: int,
) -> ClipSize:
    """An EVA02-CLIP; arguments as of `_pe_core`."""
    return ClipSize(
        VisionSize(
            *vision,
            "silu",
            epsilon=1e-6,
            gated=True,
            attention_norm=True,
            key_bias=False,
            projection="biased",
            patch_bias=True,
            pre_norm=False,
            rotary=Rotary(grid=16),
        ),
        TextSize(*text, text[0] // 64, 4 * text[0], "gelu"),
        image_size,
        patch_size,
        embedding=text[0],
        family="eva02_clip",
    )


# Size -> the model on the Hugging Face hub that has its weights. Those of LAION, DFN,
# PE-Core and EVA02 may be in open_clip's format, which `vop_jax.convert` reads.
HUB_NAMES = {
    "vit_b32": "openai/clip-vit-base-patch32",
    "vit_b16": "openai/clip-vit-base-patch16",
    "vit_l14": "openai/clip-vit-large-patch14",
    "vit_l14_336": "openai/clip-vit-large-patch14-336",
    "laion_b32": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "laion_b16": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "laion_l14": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    "laion_h14": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "laion_g14": "laion/CLIP-ViT-g-14-laion2B-s34B-b88K",
    "laion_bigg14": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "metaclip_b32": "facebook/metaclip-b32-fullcc2.5b",
    "metaclip_b16": "facebook/metaclip-b16-fullcc2.5b",
    "metaclip_l14": "facebook/metaclip-l14-fullcc2.5b",
    "metaclip_h14": "facebook/metaclip-h14-fullcc2.5b",
    "dfn_b16": "apple/DFN2B-CLIP-ViT-B-16",
    "dfn_l14": "apple/DFN2B-CLIP-ViT-L-14",
    "dfn_h14": "apple/DFN5B-CLIP-ViT-H-14",
    "dfn_h14_378": "apple/DFN5B-CLIP-ViT-H-14-378",
    "metaclip2_s16": "facebook/metaclip-2-worldwide-s16",
    "metaclip2_m16": "facebook/metaclip-2-worldwide-m16",
    "metaclip2_b32": "facebook/metaclip-2-worldwide-b32",
    "metaclip2_b16": "facebook/metaclip-2-worldwide-b16",
    "metaclip2_l14": "facebook/metaclip-2-worldwide-l14",
    "metaclip2_h14": "facebook/metaclip-2-worldwide-huge-quickgelu",
    "metaclip2_h14_378": "facebook/metaclip-2-worldwide-huge-378",
    "metaclip2_bigg14": "facebook/metaclip-2-worldwide-giant",
    "metaclip2_bigg14_378": "facebook/metaclip-2-worldwide-giant-378",
    "siglip_b16": "google/siglip-base-patch16-224",
    "siglip_b16_256": "google/siglip-base-patch16-256",
    "siglip_b16_384": "google/siglip-base-patch16-384",
    "siglip_b16_512": "google/siglip-base-patch16-512",
    "siglip_l16_256": "google/siglip-large-patch16-256",
    "siglip_l16_384": "google/siglip-large-patch16-384",
    "siglip_so400m14": "google/siglip-so400m-patch14-224",
    "siglip_so400m14_384": "google/siglip-so400m-patch14-384",
    "siglip2_b32_256": "google/siglip2-base-patch32-256",
    "siglip2_b16": "google/siglip2-base-patch16-224",
    "siglip2_b16_256": "google/siglip2-base-patch16-256",
    "siglip2_b16_384": "google/siglip2-base-patch16-384",
    "siglip2_b16_512": "google/siglip2-base-patch16-512",
    "siglip2_l16_256": "google/siglip2-large-patch16-256",
    "siglip2_l16_384": "google/siglip2-large-patch16-384",
    "siglip2_l16_512": "google/siglip2-large-patch16-512",
    "siglip2_so400m14": "google/siglip2-so400m-patch14-224",
    "siglip2_so400m14_384": "google/siglip2-so400m-patch14-384",
    "siglip2_so400m16_256": "google/siglip2-so400m-patch16-256",
    "siglip2_so400m16_384": "google/siglip2-so400m-patch16-384",
    "siglip2_so400m16_512": "google/siglip2-so400m-patch16-512",
    "siglip2_g16_256": "google/siglip2-giant-opt-patch16-256",
    "siglip2_g16_384": "google/siglip2-giant-opt-patch16-384",
    "pe_core_t16_384": "timm/PE-Core-T-16-384",
    "pe_core_s16_384": "timm/PE-Core-S-16-384",
    "pe_core_b16": "timm/PE-Core-B-16",
    "pe_core_l14_336": "timm/PE-Core-L-14-336",
    "pe_core_g14_448": "timm/PE-Core-bigG-14-448",
    "eva02_b16": "timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k",
    "eva02_l14": "timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k",
    "eva02_l14_336": "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k",
}

_B32, _B16 = ((768, 12), (512, 12), 224, 32), ((768, 12), (512, 12), 224, 16)
_L14 = ((1024, 24), (768, 12), 224, 14)

SIZES = {
    # The embedded demo's backbone; its vocabulary is the demo's own.
    "demo": ClipSize(
        vision=VisionSize(width=64, layers=4, heads=2, mlp=256),
        text=TextSize(width=64, layers=3, heads=2, mlp=256),
        image_size=48,
        patch_size=8,
        vocabulary=82,
        context_length=32,
        embedding=64,
        eos_id=81,
    ),
    # The same in SigLIP's form.
    "demo_siglip": _siglip(
        "demo", 48, 8, "demo text", vocabulary=80, context_length=32
    ),
    # OpenAI
    "vit_b32": _openai(*_B32),
    "vit_b16": _openai(*_B16),
    "vit_l14": _openai(*_L14),
    "vit_l14_336": _openai((1024, 24), (768, 12), 336, 14),
    # LAION-2B
    "laion_b32": _openai(*_B32, "gelu"),
    "laion_b16": _openai(*_B16, "gelu"),
    "laion_l14": _openai(
        *_L14, "gelu", frames=FrameRecipe(mean=_HALF, deviation=_HALF)
    ),
    "laion_h14": _h14(),
    "laion_g14": _large(VisionSize(1408, 40, 16, 6144, "gelu"), (1024, 24)),
    "laion_bigg14": _bigg14(),
    # MetaCLIP, 2.5 billion pairs
    "metaclip_b32": _openai(*_B32),
    "metaclip_b16": _openai(*_B16),
    "metaclip_l14": _openai(*_L14),
    "metaclip_h14": _h14("quick_gelu"),
    "metaclip_bigg14": _bigg14("quick_gelu"),
    # DFN
    "dfn_b16": _openai(*_B16),
    "dfn_l14": _openai(*_L14),
    "dfn_h14": _h14("quick_gelu", frames=_SQUASH),
    "dfn_h14_378": _h14("quick_gelu", image_size=378, frames=_SQUASH),
    # MetaCLIP 2, worldwide; those below H/14 are distilled.
    "metaclip2_s16": _metaclip_2(_openai((384, 12), (384, 12), 224, 16, "gelu")),
    "metaclip2_m16": _metaclip_2(_openai((512, 12), (512, 12), 224, 16, "gelu")),
    "metaclip2_b32": _metaclip_2(_openai(*_B32, "gelu")),
    "metaclip2_b16": _metaclip_2(_openai(*_B16, "gelu")),
    "metaclip2_l14": _metaclip_2(_openai(*_L14, "gelu")),
    "metaclip2_h14": _metaclip_2(_h14("quick_gelu")),
    "metaclip2_h14_378": _metaclip_2(_h14(image_size=378, frames=_SQUASH)),
    "metaclip2_bigg14": _metaclip_2(_bigg14()),
    "metaclip2_bigg14_378": _metaclip_2(_bigg14(image_size=378, frames=_SQUASH)),
    # SigLIP
    "siglip_b16": _siglip("base", 224, 16),
    "siglip_b16_256": _siglip("base", 256, 16),
    "siglip_b16_384": _siglip("base", 384, 16),
    "siglip_b16_512": _siglip("base", 512, 16),
    "siglip_l16_256": _siglip("large", 256, 16),
    "siglip_l16_384": _siglip("large", 384, 16),
    "siglip_so400m14": _siglip("so400m", 224, 14, context_length=16),
    "siglip_so400m14_384": _siglip("so400m", 384, 14),
    # SigLIP 2, fixed resolution
    "siglip2_b32_256": _siglip2("base", 256, 32),
    "siglip2_b16": _siglip2("base", 224, 16),
    "siglip2_b16_256": _siglip2("base", 256, 16),
    "siglip2_b16_384": _siglip2("base", 384, 16),
    "siglip2_b16_512": _siglip2("base", 512, 16),
    "siglip2_l16_256": _siglip2("large", 256, 16),
    "siglip2_l16_384": _siglip2("large", 384, 16),
    "siglip2_l16_512": _siglip2("large", 512, 16),
    "siglip2_so400m14": _siglip2("so400m", 224, 14),
    "siglip2_so400m14_384": _siglip2("so400m", 384, 14),
    "siglip2_so400m16_256": _siglip2("so400m", 256, 16),
    "siglip2_so400m16_384": _siglip2("so400m", 384, 16),
    "siglip2_so400m16_512": _siglip2("so400m", 512, 16),
    "siglip2_g16_256": _siglip2("giant", 256, 16, "so400m"),
    "siglip2_g16_384": _siglip2("giant", 384, 16, "so400m"),
    # PE-Core
    "pe_core_t16_384": _pe_core((192, 12, 3, 768), (512, 12), 384, 16),
    "pe_core_s16_384": _pe_core((384, 12, 6, 1536), (512, 12), 384, 16),
    "pe_core_b16": _pe_core((768, 12, 12, 3072), (1024, 24), 224, 16),
    "pe_core_l14_336": _pe_core((1024, 24, 16, 4096), (1024, 24), 336, 14),
    "pe_core_g14_448": _pe_core_g14(),
    # EVA02-CLIP
    "eva02_b16": _eva02((768, 12, 12, 2048), (512, 12), 224, 16),
    "eva02_l14": _eva02((1024, 24, 16, 2730), (768, 12), 224, 14),
    "eva02_l14_336": _eva02((1024, 24, 16, 2730), (768, 12), 336, 14),
}


def known_size(backbone: str) -> ClipSize | None:
    """The size that a backbone's name means; None if it is not a known name.

    Args:
        backbone: a key of `SIZES` or a name of `HUB_NAMES`.
    """
    short = {hub: name for name, hub in HUB_NAMES.items()}.get(backbone, backbone)
    return SIZES.get(short)
