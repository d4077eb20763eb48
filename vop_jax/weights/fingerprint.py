"""Identifies what embeds videos: weights, configuration and frames."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np

from vop_jax.model.clip.sizes import FrameRecipe
from vop_jax.model.prompts.config import ADDED_PROMPT_FIELDS, PromptConfig
from vop_jax.weights.backbone import Backbone


def fingerprint_of(
    backbone: Backbone,
    leaves: Mapping[str, np.ndarray],
    prompts: PromptConfig,
    dtype: str,
    *,
    renormalize: bool,
) -> str:
    """The sha256 over all that an embedding depends on.

    Args:
        backbone: the frozen model.
        leaves: the tuned parameters by path.
        prompts: the prompt configuration.
        dtype: the compute dtype.
        renormalize: whether the mean over frames is normalised.
    """
    # The same weights give other embeddings under another configuration. What was the
    # only choice once has no word: indexes from before it stay valid.
    fields = dataclasses.asdict(prompts).items()
    said = [f"{k}={v!r}" for k, v in fields if ADDED_PROMPT_FIELDS.get(k, ...) != v]
    parts = [backbone.sha256, f"PromptConfig({', '.join(said)})", str(renormalize)]
    parts += [] if dtype == "float32" else [dtype]
    frames = backbone.size.frames
    parts += [] if frames == FrameRecipe() else [str(frames)]
    digest = hashlib.sha256(" ".join(parts).encode())
    for name in sorted(leaves):
        digest.update(name.encode())
        digest.update(leaves[name].tobytes())
    return digest.hexdigest()
