"""What the vision and the text tower share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vop_jax.model.clip.layers import Block, LayerNorm
from vop_jax.model.clip.sizes import PROJECTIONS, ClipSize, TowerSize
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.prompts.adapters import Adapters
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.prompts.fusion import Fusion
from vop_jax.model.prompts.latent import LatentPrompts
from vop_jax.model.prompts.layer_plan import Source
from vop_jax.model.prompts.lora import Lora
from vop_jax.model.prompts.mv_adapter import (
    CaptionAdapters,
    SharedVectors,
    VideoAdapters,
)


def normal(std: float) -> Callable[..., Array]:
    """An initializer of normally distributed values around 0."""
    return nn.initializers.normal(std)


class Tower(nn.Module):
    """What both towers share: stacked layers, and the last layer on its own.

    The last layer may compute only the row that is read, and the `partial` baseline
    trains it alone, so it has parameters of its own; the others are stacked for
    `lax.scan`.

    Attributes:
        size: of the backbone.
        prompt_config: what is added to it.
        compute: how the tower computes.
        shared: what makes prompts of both towers, or None.
        tie: what adapters of both towers share, or None.
    """

    size: ClipSize
    prompt_config: PromptConfig
    compute: ComputeConfig
    shared: LatentPrompts | None = None
    tie: SharedVectors | None = None

    def make_layers(self, size: TowerSize) -> None:
        """Declares `layers` and `last_layer`."""
        compute = self.compute
        self.block = Block(
            size,
            compute.precision,
            compute.attention == "splash",
            parent=None,
        )
        sample = jnp.zeros((1, 1, 1, size.width))

        def one(key):
            return self.block.init(key, sample)["params"]

        self.whole_layer = jax.eval_shape(one, jax.random.key(0))
        self.layers = self.declare_sharded(
            "layers", lambda key: jax.vmap(one)(jax.random.split(key, size.layers - 1))
        )
        self.last_layer = self.declare_sharded("last_layer", one)

    def declare_sharded(self, name: str, initial: Callable[..., Any]) -> Any:
        """Declares a parameter that may be an FSDP shard.

        Flax compares the shape of a `param` with its initializer's, which that of a
        shard differs from; so beyond initialisation the variable is read unchecked.
        """
        if self.is_initializing():
            return self.param(name, initial)
        return self.get_variable("params", name)

    def make_beside(
        self, size: TowerSize, behind: type[VideoAdapters] | type[CaptionAdapters]
    ) -> None:
        """Declares `adapters` and `lora`; None where the method has none.

        Args:
            size: of the tower.
            behind: the tower's adapters behind the MLP.
        """
        config, width = self.prompt_config, size.width
        first, last = config.prompted(size.layers)
        self.adapters = self.lora = None
        if self.tie is not None:
            precision = self.compute.precision
            self.adapters = behind(config, self.size, precision, self.tie)
        elif config.adapter:
            self.adapters = Adapters(
                config.adapter, last - first, width, config.adapter_width
            )
        if config.lora_rank:
            self.lora = Lora(config.lora_parts, last - first, width, config.lora_rank)

    def beside(self, size: TowerSize) -> dict[str, Source]:
        """What is added to the outputs of parts of the layers."""
        first, _ = self.prompt_config.prompted(size.layers)
        made = [x(first) for x in (self.adapters, self.lora) if x is not None]
        return {part: source for sources in made for part, source in sources.items()}

    def make_fusion(self, size: TowerSize, layers: int) -> None:
        """Declares `fusion`, of the last layers; None where the method has none."""
        narrow = self.prompt_config.fusion_width
        self.fusion = Fusion(layers, size.width, narrow) if layers else None

    def fused(self, size: TowerSize) -> Source | None:
        """What is added to the attention across frames, if there is any."""
        fusion = self.fusion
        return None if fusion is None else fusion(size.layers - fusion.layers)

    def norm(self, size: TowerSize, name: str) -> LayerNorm:
        """A LayerNorm of the tower's width."""
        results = self.compute.precision.results
        return LayerNorm(size.epsilon, dtype=results, name=name)

    def make_projection(self, size: TowerSize) -> None:
        """Declares the parameters that make the embedding of a row, if any."""
        initial = {
            "projection": (
                normal(size.width**-0.5),
                (size.width, self.size.embedding),
            ),
            "projection_bias": (nn.initializers.zeros, (self.size.embedding,)),
        }
        self.projected_by = {
            name: self.param(name, *initial[name])
            for name in PROJECTIONS[size.projection]
        }

    def project(self, rows: Float[Array, "*n D"]) -> Float[Array, "*n E"]:
        """The embeddings of the rows that were read, float32."""
        weights = {k: x.astype(rows.dtype) for k, x in self.projected_by.items()}
        if "projection" in weights:
            rows = rows @ weights["projection"]
        if "projection_bias" in weights:
            rows = rows + weights["projection_bias"]
        return rows.astype(jnp.float32)
