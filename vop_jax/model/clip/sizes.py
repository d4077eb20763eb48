"""The description of a backbone, and the supported models of OpenAI's family."""

import dataclasses

# The names of the two towers, in a `ClipSize` and in a parameter's path.
TOWERS = ("vision", "text")
# OpenAI's CLIP pixel statistics, per channel of an image in [0, 1].
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Rotary:
    """A rotary position embedding in two dimensions (2-D RoPE).

    It turns the queries and keys of patches by their place in the frame. The class
    token is not turned, and neither is a prompt, which has no place.

    Attributes:
        order: `ij` (a head's first half of channels turns by the row, its second by the
            column) or `xy` (the other way round).
        offset: added to the places, which count from 0.
        grid: the side of the grid of patches that the places are scaled to; 0 takes
            them as they are.
        temperature: the longest wavelength, in patches and before the factor of 2 pi.
    """

    order: str = "ij"
    offset: float = 0.0
    grid: int = 0
    temperature: float = 10_000.0


@dataclasses.dataclass(frozen=True)
class TowerSize:
    """The description of one Transformer tower: sizes, and what its layers are made of.

    Attributes:
        width: D, the width of a token.
        layers: K, at least 2 (the last one has parameters of its own).
        heads: H, a divisor of the width.
        mlp: the hidden width of the MLP.
        activation: a name of `layers.ACTIVATIONS`: `quick_gelu` (OpenAI's CLIP),
            `gelu` (exact, most others), `gelu_tanh` or `silu`.
        epsilon: of every LayerNorm.
        gated: whether the MLP is gated (SwiGLU): the activation of one linear layer
            times another, normalised before the last linear layer.
        attention_norm: whether what attention mixed is normalised before its output
            layer.
        key_bias: whether keys have a bias.
        projection: how the embedding is made from the row that is read: `linear`,
            `biased` (linear with a bias) or `none`.
    """

    width: int
    layers: int
    heads: int
    mlp: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    gated: bool = False
    attention_norm: bool = False
    key_bias: bool = True
    projection: str = "linear"


@dataclasses.dataclass(frozen=True)
class VisionSize(TowerSize):
    """The description of a vision tower.

    Attributes:
        class_token: whether a class token precedes the patches.
        patch_bias: whether the patch embedding has a bias.
        pre_norm: whether a LayerNorm precedes layer 1.
        rotary: the rotary position embedding, beside the learned one; None if there is
            none.
        pooling_heads: heads of the attention that pools all rows of the last layer to
            the one that is read; 0 reads the class token's row.
    """

    class_token: bool = True
    patch_bias: bool = False
    pre_norm: bool = True
    rotary: Rotary | None = None
    pooling_heads: int = 0


@dataclasses.dataclass(frozen=True)
class TextSize(TowerSize):
    """The description of a text tower.

    Attributes:
        causal: whether a token attends to those before it alone; else to all,
            padding included.
        reads: the row that is read: `end` (that of the first EOT token) or `last`
            (that of the last position, so that captions are padded to the full
            context length).
    """

    causal: bool = True
    reads: str = "end"


@dataclasses.dataclass(frozen=True)
class FrameRecipe:
    """How a model wants its frames.

    Attributes:
        resize: `crop` (the shorter side to the image size, then the centre) or `squash`
            (both sides to the image size).
        filter: `bicubic` or `bilinear`, both antialiased.
        mean: of the pixels of each channel, between 0 and 1.
        deviation: standard deviation of the pixels of each channel.
    """

    resize: str = "crop"
    filter: str = "bicubic"
    mean: tuple[float, float, float] = PIXEL_MEAN
    deviation: tuple[float, float, float] = PIXEL_DEVIATION


@dataclasses.dataclass(frozen=True)
class ClipSize:
    """The description of a backbone: two towers, and what they are fed.

    Attributes:
        vision: the vision tower.
        text: the text tower.
        image_size: height and width of a frame, pixels.
        patch_size: height and width of a patch, pixels.
        vocabulary: number of token ids.
        context_length: the most tokens of a caption, SOT and EOT included.
        embedding: E, the width both towers project to.
        eos_id: the id of the EOT token, whose output is the caption's embedding where
            the text tower reads it.
        frames: how frames are made.
        family: a key of `families.FAMILIES`, which says how files name its tensors and
            how its texts are prepared.
        loss: what it was made with, `softmax` or `sigmoid`; the latter has a parameter
            `logit_bias`.
    """

    vision: VisionSize
    text: TextSize
    image_size: int
    patch_size: int
    vocabulary: int = 49408
    context_length: int = 77
    embedding: int = 512
    eos_id: int = 49407
    frames: FrameRecipe = FrameRecipe()
    family: str = "clip"
    loss: str = "softmax"

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


def _openai(
    vision: tuple[int, int], text: tuple[int, int], image_size: int, patch_size: int
) -> ClipSize:
    """OpenAI's proportions: heads of width 64, an MLP of 4 times the width.

    Args:
        vision: width and layers.
        text: width and layers; its width is that of the embedding too.
        image_size: pixels.
        patch_size: pixels.
    """
    return ClipSize(
        VisionSize(*vision, heads=vision[0] // 64, mlp=4 * vision[0]),
        TextSize(*text, heads=text[0] // 64, mlp=4 * text[0]),
        image_size,
        patch_size,
        embedding=text[0],
    )


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
        vision=VisionSize(width=64, layers=4, heads=2, mlp=256),
        text=TextSize(width=64, layers=3, heads=2, mlp=256),
        image_size=48,
        patch_size=8,
        vocabulary=82,
        context_length=32,
        embedding=64,
        eos_id=81,
    ),
    "vit_b32": _openai((768, 12), (512, 12), 224, 32),
    "vit_b16": _openai((768, 12), (512, 12), 224, 16),
    "vit_l14": _openai((1024, 24), (768, 12), 224, 14),
    "vit_l14_336": _openai((1024, 24), (768, 12), 336, 14),
}


def known_size(backbone: str) -> ClipSize | None:
    """The size that a backbone's name means; None if it is not a known name.

    Args:
        backbone: a key of `SIZES` or a name of `HUB_NAMES`.
    """
    short = {hub: name for name, hub in HUB_NAMES.items()}.get(backbone, backbone)
    return SIZES.get(short)
