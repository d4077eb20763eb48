"""Small CLIPs for comparisons with naive references: odd widths, towers unlike."""

from vop_jax.model.clip.sizes import ClipSize, TextSize, VisionSize


def small(vision_layers, text_layers):
    """Short captions, and another activation in each tower."""
    return ClipSize(
        vision=VisionSize(32, vision_layers, 2, 96),
        text=TextSize(24, text_layers, 3, 48, activation="gelu"),
        image_size=24,
        patch_size=8,
        vocabulary=60,
        context_length=30,
        embedding=20,
        eos_id=59,
    )


def long(vision_layers, text_layers):
    """Captions of CLIP's full length."""
    return ClipSize(
        vision=VisionSize(48, vision_layers, 3, 64),
        text=TextSize(32, text_layers, 2, 64),
        image_size=16,
        patch_size=8,
        vocabulary=40,
        context_length=77,
        embedding=16,
        eos_id=39,
    )
