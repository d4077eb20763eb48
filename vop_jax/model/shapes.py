"""Shapes of all parameters of a model, without allocating them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.tree_paths import paths


def abstract_variables(size: ClipSize, prompts: PromptConfig) -> Any:
    """The shapes of a model's variables; nothing is computed or allocated."""
    image = (1, prompts.num_frames, size.image_size, size.image_size, 3)
    key = jax.random.key(0)
    return jax.eval_shape(
        DualEncoder(size, prompts).init,
        {"params": key, "prompts": key},
        jax.ShapeDtypeStruct(image, jnp.uint8),
        jax.ShapeDtypeStruct((1, size.context_length), jnp.int32),
    )


def added_shapes(size: ClipSize, prompts: PromptConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf of the collection `prompts`, by its complete path."""
    return dict(_added_shapes(size, prompts))


@functools.lru_cache(maxsize=64)
def _added_shapes(size: ClipSize, prompts: PromptConfig) -> Any:
    """Cached: files of one form are loaded one after another, and a trace is slow."""
    found = paths(abstract_variables(size, prompts))
    return {
        path: leaf.shape for path, leaf in found.items() if path.startswith("prompts/")
    }
