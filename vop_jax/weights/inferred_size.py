"""The description of a model that no config.json describes, from its tensors' shapes.

What shapes do not tell (heads, LayerNorm's epsilon, rotary positions, which row is
read) is as in the published models of its family and width.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.families import SIZES
from vop_jax.model.clip.sizes import ClipSize, TextSize, VisionSize
from vop_jax.weights.families import FAMILIES, family_of
from vop_jax.weights.tensors import Tensor

# Tower -> width -> heads of every ViT that OpenAI, LAION, MetaCLIP or open_clip have
# published (open_clip 3.3.0, `model_configs`).
PUBLISHED_HEADS = {
    "vision": {
        **{384: 6, 512: 8, 768: 12, 896: 14, 1024: 16},
        **{1280: 16, 1408: 16, 1664: 16, 1792: 16},
    },
    "text": {256: 4, 384: 6, 512: 8, 640: 10, 768: 12, 1024: 16, 1280: 20},
}
# Up to this width all published towers have heads of 64, as OpenAI's code assumes.
_WIDEST_OF_64 = 1024
_VISION, _TEXT = "vision_model.embeddings", "text_model.embeddings"


def heads_of(tower: str, width: int) -> int:
    """The number of heads of a tower of that width; 0 if unknown."""
    known = PUBLISHED_HEADS[tower].get(width, 0)
    of_64 = width // 64 if width <= _WIDEST_OF_64 and width % 64 == 0 else 0
    return known or of_64


def template_of(family: str, *, class_token: bool = True) -> ClipSize:
    """A published model of a family, with a class token or without."""
    model_type = FAMILIES[family].model_type
    rows = [x for x in SIZES.values() if FAMILIES[x.family].model_type == model_type]
    same = [x for x in rows if x.family == family]
    alike = [x for x in same if x.vision.class_token == class_token]
    return next(iter([*alike, *same, *rows]))


class _Shapes:
    """The shapes of a model's tensors, and the assumptions made of them."""

    def __init__(self, clip: Mapping[str, Tensor], family: str, where: str):
        self.clip, self.where = clip, where
        self.assumed: list[str] = []
        model_type = FAMILIES[family].model_type
        # The published models that its format can be of.
        self.published = [
            x for x in SIZES.values() if FAMILIES[x.family].model_type == model_type
        ]

    def of(self, name: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor with so many axes."""
        if name not in self.clip:
            raise UserError(f"{self.where}: {name} is missing")
        found = self.clip[name].shape
        if len(found) != axes:
            raise UserError(
                f"{self.where}: {name} has {len(found)} axes instead of {axes}"
            )
        return found

    def tower(self, kind: str, heads: int, activation: str) -> dict[str, Any]:
        """The fields of `TowerSize` that both towers have."""
        layers = f"{kind}_model.encoder.layers"
        pattern = re.compile(rf"{re.escape(layers)}\.(\d+)\..*")
        numbers = {
            int(found[1]) for name in self.clip if (found := pattern.match(name))
        }
        first = f"{layers}.0"
        (width,) = self.of(f"{first}.layer_norm1.weight", 1)
        gated = f"{first}.mlp.gate_proj.weight" in self.clip
        mlp, _ = self.of(f"{first}.mlp.{'gate_proj' if gated else 'fc1'}.weight", 2)
        heads = self._heads(kind, width, heads, len(numbers))
        projection = "visual_projection" if kind == "vision" else "text_projection"
        bare = f"{projection}.weight" not in self.clip
        biased = f"{projection}.bias" in self.clip
        return {
            "width": width,
            "layers": len(numbers),
            "heads": heads,
            "mlp": mlp,
            "activation": activation,
            "gated": gated,
            "attention_norm": f"{first}.self_attn.norm.weight" in self.clip,
            "key_bias": self._key_bias(first),
            "projection": "none" if bare else "biased" if biased else "linear",
        }

    def _key_bias(self, layer: str) -> bool:
        """Whether keys have a bias; a model that says nothing of attention has one."""
        attention = f"{layer}.self_attn.k_proj"
        held = f"{attention}.weight" in self.clip
        return not held or f"{attention}.bias" in self.clip

    def _heads(self, kind: str, width: int, heads: int, layers: int) -> int:
        if not heads and layers > 1:
            alike = {x.tower(kind).width: x.tower(kind).heads for x in self.published}
            heads = heads_of(kind, width) or alike.get(width, 0)
            if not heads:
                raise UserError(
                    f"{self.where} does not say how many heads its {kind} tower of "
                    f"width {width} has, and no published CLIP's has that width; pass "
                    "--heads=VISION,TEXT"
                )
            if width not in alike and width not in PUBLISHED_HEADS[kind]:
                self.assumed.append(f"{heads} heads of 64 in the {kind} tower")
        if not heads or width % heads or layers < 2:
            raise UserError(
                f"{self.where}: a tower of {layers} layers, width {width} and {heads} "
                "heads is not a CLIP's"
            )
        return heads

    def image_size(self, stated: int, class_token: bool) -> int:
        """The image size: patches form a square, besides a class token's position."""
        width, _, _, patch = self.of(f"{_VISION}.patch_embedding.weight", 4)
        positions, _ = self.of(f"{_VISION}.position_embedding.weight", 2)
        patches = positions - class_token
        side = math.isqrt(max(patches, 0))
        if not side or side * side != patches:
            raise UserError(f"{self.where}: {patches} patches are not a square image's")
        if stated:
            if stated // patch != side:
                raise UserError(
                    f"{self.where}: an image of {stated} pixels has "
                    f"{(stated // patch) ** 2} patches, but the file {patches}; they "
                    "are not of one model"
                )
            return stated
        # Pixels may be left over beside the patches.
        published = {
            size.image_size
            for size in self.published
            if (size.vision.width, size.patch_size, size.grid) == (width, patch, side)
        }
        if published and side * patch not in published:
            size = min(published)
            self.assumed.append(f"images of {size} pixels, as published")
            return size
        return side * patch


def size_of(
    clip: Mapping[str, Tensor],
    heads: tuple[int, int],
    activations: tuple[str, str] | str,
    where: str,
    *,
    family: str = "clip",
    tokenizer: str | None = None,
    image_size: int = 0,
    text_epsilon: float | None = None,
) -> tuple[ClipSize, str]:
    """Infers the description of a model from its tensors.

    Args:
        clip: under our names.
        heads: of the vision and the text tower; 0 means those of `heads_of`.
        activations: of the two towers, or of both; empty for the family's.
        where: names the source in an error.
        family: of its format, a key of `FAMILIES`.
        tokenizer: the type of model of its tokenizer, if it has one.
        image_size: as stated, or 0.
        text_epsilon: of the text tower's LayerNorms, as stated.

    Returns:
        The description, with the family's end token or the highest id; and the
        assumptions made, or empty.

    Raises:
        UserError: the shapes are not such a model's, or the number of heads is unknown.
    """
    shapes = _Shapes(clip, family, where)
    class_token = f"{_VISION}.class_embedding" in clip or family == "clip"
    vocabulary, _ = shapes.of(f"{_TEXT}.token_embedding.weight", 2)
    context, _ = shapes.of(f"{_TEXT}.position_embedding.weight", 2)
    embedding, _ = shapes.of("text_projection.weight", 2)
    model_type = FAMILIES[family].model_type
    alike = [k for k, x in FAMILIES.items() if x.model_type == model_type]
    if all(FAMILIES[k].tokenizer[0] for k in alike):
        family = family_of(model_type, tokenizer, vocabulary)
    usual = template_of(family, class_token=class_token)
    if isinstance(activations, str):
        activations = activations, activations
    vision = shapes.tower("vision", heads[0], activations[0] or usual.vision.activation)
    text = shapes.tower("text", heads[1], activations[1] or usual.text.activation)
    *_, patch = shapes.of(f"{_VISION}.patch_embedding.weight", 4)
    pooled = "vision_model.head.probe" in clip
    pooling = {}
    if pooled:
        # The tower's own heads, or a number that all models of the family have.
        own = usual.vision.pooling_heads == usual.vision.heads
        mlp, _ = shapes.of("vision_model.head.mlp.fc1.weight", 2)
        pooling = {
            "pooling_heads": vision["heads"] if own else usual.vision.pooling_heads,
            "pooling_mlp": 0 if mlp == vision["mlp"] else mlp,
        }
    size = ClipSize(
        vision=VisionSize(
            **vision,
            epsilon=usual.vision.epsilon,
            class_token=class_token,
            patch_bias=f"{_VISION}.patch_embedding.bias" in clip,
            pre_norm="vision_model.pre_layrnorm.weight" in clip or family == "clip",
            rotary=usual.vision.rotary,
            **pooling,
        ),
        text=TextSize(
            **text,
            epsilon=usual.text.epsilon if text_epsilon is None else text_epsilon,
            causal=usual.text.causal,
            reads=usual.text.reads,
        ),
        image_size=shapes.image_size(image_size, class_token),
        patch_size=patch,
        vocabulary=vocabulary,
        context_length=context,
        embedding=embedding,
        eos_id=FAMILIES[family].texts.end or vocabulary - 1,
        frames=FAMILIES[family].frames,
        family=family,
        loss="sigmoid" if "logit_bias" in clip else "softmax",
    )
    return size, "; ".join(shapes.assumed)
