"""What bfloat16 does to features."""

import jax
import jax.numpy as jnp
import numpy as np

from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.stored import store_frozen


def random_variables(size, config, deviation):
    """Variables around those of a new model, drawn by numpy."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        middle = {"scale": 1.0, "logit_scale": 3.0}.get(path[-1].key, 0.0)
        noise = deviation * rng.standard_normal(leaf.shape, np.float32)
        return np.asarray(middle + noise, np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(size, config))


def cosines(size, config, computes, frames, ids, deviation=0.03):
    """The least cosines to exact features, of the videos' and of the captions'.

    Args:
        size: the backbone's.
        config: of prompts.
        computes: ways to compute, `ComputeConfig`, the exact one first.
        frames: `[B, F, H, W, 3]`.
        ids: `[B, N]`.
        deviation: standard deviation of the random parameters.

    Returns:
        A pair for each way but the first.
    """
    variables = random_variables(size, config, deviation)
    found = []
    for compute in computes:
        model = DualEncoder(size, config, compute)
        stored = store_frozen(variables, compute.dtype)
        found.append(jax.jit(model.apply)(stored, frames, ids)[:2])
    exact, *others = found
    return [
        tuple(_least(x, y) for x, y in zip(exact, other, strict=True))
        for other in others
    ]


def _least(right, ours):
    assert ours.dtype == jnp.float32
    lengths = [jnp.linalg.norm(x, axis=1) for x in (right, ours)]
    return float(((right * ours).sum(1) / lengths[0] / lengths[1]).min())
