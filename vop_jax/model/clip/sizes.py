"""The description of a backbone: what its two towers are made of, and what they read.

A part of a tower decides by its own field, never by the name of a family;
`vop_jax.model.clip.families` has the descriptions of known models.
"""

import dataclasses

# The names of the two towers, in a `ClipSize` and in a parameter's path.
TOWERS = ("vision", "text")
# The values of `TowerSize.projection` -> the parameters that make an embedding.
PROJECTIONS = {
    "linear": ("projection",),
    "biased": ("projection", "projection_bias"),
    "none": (),
}
# OpenAI's CLIP pixel statistics, per channel of an image in [0, 1].
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Rotary:
    """A rotary position embedding in two dimensions (2-D RoPE).

    It turns the queries and keys of patches by their place in the frame, adjacent
    channels as one pair. The class token is not turned, and neither is a prompt, which
    has no place.

    Attributes:
        order: `ij` (a head's first half of channels turns by the row, its second by the
            column) or `xy` (the other way round).
        offset: added to the places, which count from 0, before they are scaled.
        grid: the side of the grid of patches that the places are scaled to; 0 takes
            them as they are.
        temperature: channel pair n of N turns by place / temperature^(n / N).
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
        pooling_mlp: the hidden width of the MLP behind that attention; 0 means `mlp`.
    """

    class_token: bool = True
    patch_bias: bool = False
    pre_norm: bool = True
    rotary: Rotary | None = None
    pooling_heads: int = 0
    pooling_mlp: int = 0

    def __post_init__(self):
        """Checks that there is a row to read.

        Raises:
            ValueError: there is neither a class token nor pooling.
        """
        if not (self.class_token or self.pooling_heads):
            raise ValueError("a vision tower needs a class token or pooling_heads")

    @property
    def pooling(self) -> TowerSize | None:
        """The pooling's attention and MLP, as those of a layer; None without it."""
        if not self.pooling_heads:
            return None
        return TowerSize(
            self.width,
            1,
            self.pooling_heads,
            self.pooling_mlp or self.mlp,
            self.activation,
            self.epsilon,
        )


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
        family: says how files name its tensors and how its texts are prepared; it
            changes nothing that a tower computes.
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
    def grid(self) -> int:
        """The side of a frame's grid of patches; pixels beyond it are not seen."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """M, the number of patches of a frame."""
        return self.grid**2

    @property
    def tokens(self) -> int:
        """S, the number of tokens of a frame: its patches, and a class token."""
        return self.vision.class_token + self.patches

    @property
    def reads_class_token(self) -> bool:
        """Whether a frame's embedding is made of its class token's row alone."""
        return self.vision.class_token and not self.vision.pooling_heads

    @property
    def full_captions(self) -> bool:
        """Whether captions keep their padding to the full context length.

        A text tower sees padding if it reads the last position or is not causal; any
        other one gives the same embedding without it.
        """
        return self.text.reads == "last" or not self.text.causal


def tower_of(path: str) -> str | None:
    """The tower that a parameter belongs to; None for the scale, of both.

    Args:
        path: within the collection `params` or `prompts`, or below one of them.
    """
    return next((part for part in path.split("/")[:2] if part in TOWERS), None)
