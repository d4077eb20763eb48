"""The sizes of the supported CLIP models."""

import dataclasses

# The names of the two towers, in a `ClipSize` and in a parameter's path.
TOWERS = ("vision", "text")


@dataclasses.dataclass(frozen=True)
class TowerSize:
    """The size of one Transformer tower.

    Attributes:
        width: D, the width of a token.
        layers: K, at least 2 (the last one has parameters of its own).
        heads: H, a divisor of the width.
        mlp: the hidden width of the MLP.
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
    """The size of a CLIP model.

    Attributes:
        vision: the vision tower.
        text: the text tower.
        image_size: height and width of a frame, pixels.
        patch_size: height and width of a patch, pixels.
        vocabulary: number of token ids.
        context_length: the most tokens of a caption, SOT and EOT included.
        embedding: E, the width both towers project to.
        eos_id: the id of the EOT token, whose output is the caption's embedding.
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


def tower_of(path: str) -> str | None:
    """The tower that a parameter belongs to; None for the scale, of both.

    Args:
        path: within the collection `params` or `prompts`, or below one of them.
    """
    return next((part for part in path.split("/")[:2] if part in TOWERS), None)


def _tower(width: int, layers: int) -> TowerSize:
    """A tower in CLIP's proportions: heads of width 64, an MLP of 4 times the width."""
    return TowerSize(width=width, layers=layers, heads=width // 64, mlp=4 * width)


# Size -> the model on the Hugging Face hub that has its weights.
HUB_NAMES = {
    "vit_b32": "openai/clip-vit-base-patch32",
    "vit_b16": "openai/clip-vit-base-patch16",
    "vit_l14": "openai/clip-vit-large-patch14",
    "vit_l14_336": "openai/clip-vit-large-patch14-336",
}

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


def known_size(backbone: str) -> ClipSize | None:
    """The size that a backbone's name means; None if it is not a known name.

    Args:
        backbone: a key of `SIZES` or a name of `HUB_NAMES`.
    """
    short = {hub: name for name, hub in HUB_NAMES.items()}.get(backbone, backbone)
    return SIZES.get(short)


# OpenAI's CLIP pixel statistics, per channel of an image in [0, 1].
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)


PIXEL_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
