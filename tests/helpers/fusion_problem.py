"""A small model with fusion, random variables and a batch, and its train step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from small_sizes import long, small

from vop_jax.devices.mesh import make_mesh, put_batch, put_tree
from vop_jax.model.methods import METHODS
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.trained import select, trained_mask
from vop_jax.optimization.train_step import make_loss_and_gradient

SMALL = small(3, 2)
LONG = long(5, 3)


def random_ids(size, lengths, rng):
    """Captions `[B, N]` of these lengths, padded to the longest."""
    ids = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        words = rng.integers(1, size.eos_id - 1, length - 2)
        row[:length] = [size.eos_id - 1, *words, size.eos_id]
    return ids


def problem(size, config, frames, lengths, seed=0):
    """The configuration of that many frames, random variables, frames and captions."""
    rng = np.random.default_rng(seed)
    side = size.image_size
    pixels = rng.integers(0, 256, (len(lengths), frames, side, side, 3), np.uint8)
    ids = random_ids(size, lengths, rng)

    def draw(path, leaf):
        middle = {"scale": 1.0, "logit_scale": 2.0}.get(path[-1].key, 0.0)
        return jnp.asarray(middle + rng.normal(0, 0.15, leaf.shape), jnp.float32)

    config = dataclasses.replace(config, num_frames=frames)
    shapes = abstract_variables(size, config)
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return config, variables, pixels, ids


def reference_gradient(loss, variables):
    """What a naive reference says, and its gradient by what is added to CLIP.

    Args:
        loss: the variables -> the loss, and the features.
        variables: of the model.
    """

    @jax.jit
    def run(prompts, params):
        def of(prompts):
            return loss({"params": params, "prompts": prompts})

        return jax.value_and_grad(of, has_aux=True)(prompts)

    return run(variables["prompts"], variables["params"])


def step_gradient(model, variables, batch, layout, **options):
    """The loss and its gradient for all that is added, on a mesh of fake devices."""
    mesh = make_mesh(layout, jax.devices()[: layout.data * layout.fsdp])
    mask = trained_mask(variables, METHODS["ivfusion"].trained)
    trees = [put_tree(mesh, select(variables, mask, trained=x)) for x in (True, False)]
    run = jax.jit(make_loss_and_gradient(model, mesh, **options))
    loss, gradient = run(*trees, put_batch(mesh, batch))
    return float(loss), gradient["prompts"]


def assert_close(gradient, wanted):
    """Every leaf to 1e-4 of its own norm."""
    for (path, ours), theirs in zip(
        jax.tree_util.tree_flatten_with_path(gradient)[0],
        jax.tree.leaves(wanted),
        strict=True,
    ):
        norm = np.linalg.norm(theirs)
        assert norm > 1e-6, path
        assert np.linalg.norm(ours - theirs) <= 1e-4 * norm, path
