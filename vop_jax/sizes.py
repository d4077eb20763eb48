"""The shapes of the CLIP models that this project knows."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TowerSize:
    """The shape of one Transformer tower.

    Attributes:
        width: D, the width of a token.
        layers: K, at least 2 (the last one is stored apart).
        heads: H, a divisor of the width.
        mlp: the hidden width of the feed-forward part.
        activation: `quick_gelu` (OpenAI's CLIP) or `gelu` (exact, most others).
        epsilon: of every LayerNorm.
    """

    width: int
    layers: int
    heads: int
    mlp: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5


@dataclasses.dataclass(frozen=True)
class ClipSize:
    """The shape of a CLIP model.

    Attributes:
        vision: the vision tower.
        text: the text tower.
        image_size: height and width of a frame, pixels.
        patch_size: height and width of a patch, pixels.
        vocabulary: number of token ids.
        context_length: longest caption, tokens, start and end included.
        embedding: E, the width both towers project to.
        eos_id: the id of the token that ends a caption and is read out.
    """

    vision: TowerSize
    text: TowerSize
    image_size: int
    patch_size: int
    vocabulary: int = 49408
    context_length: int = 77
    embedding: int = 512
    eos_id: int = 49407

    def tower(self, name: str) -> TowerSize:
        """The tower called `vision` or `text`."""
        return {"vision": self.vision, "text": self.text}[name]

    @property
    def patches(self) -> int:
        """M, the number of patches of a frame."""
        return (self.image_size // self.patch_size) ** 2


def _tower(width: int, layers: int) -> TowerSize:
    """A tower in CLIP's proportions: heads of 64, a feed-forward part of 4 widths."""
    return TowerSize(width=width, layers=layers, heads=width // 64, mlp=4 * width)


SIZES = {
    # The embedded demo's backbone; its vocabulary is the demo's own.
    "demo": ClipSize(
        vision=TowerSize(width=64, layers=4, heads=2, mlp=256),
        text=TowerSize(width=64, layers=3, heads=2, mlp=256),
        image_size=48,
        patch_size=8,
        vocabulary=82,
        context_length=32,
        embedding=64,
        eos_id=81,
    ),
    "vit_b32": ClipSize(_tower(768, 12), _tower(512, 12), 224, 32),
    "vit_b16": ClipSize(_tower(768, 12), _tower(512, 12), 224, 16),
    "vit_l14": ClipSize(_tower(1024, 24), _tower(768, 12), 224, 14, embedding=768),
    "vit_l14_336": ClipSize(_tower(1024, 24), _tower(768, 12), 336, 14, embedding=768),
}
