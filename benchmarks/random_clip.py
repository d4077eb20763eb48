"""A CLIP of random weights, for what depends on its size alone."""

from pathlib import Path

import numpy as np
from flax import traverse_util

from vop_jax.model.clip.param_shapes import param_shapes
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.weights.backbone import save_backbone


def write_random_clip(folder: Path, size: ClipSize) -> None:
    """Writes a Hugging Face CLIP folder."""
    rng = np.random.default_rng(0)
    leaves = {
        path: 0.02 * rng.standard_normal(shape, np.float32)
        for path, shape in param_shapes(size).items()
    }
    save_backbone(folder, size, traverse_util.unflatten_dict(leaves, sep="/"))
