"""The same loss and gradients on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import UserError
from vop_jax.dual_encoder import DualEncoder
from vop_jax.methods import METHODS, select, trained_mask
from vop_jax.prompts import PromptConfig
from vop_jax.sharding import BATCH, MeshConfig, make_mesh, put_batch, put_tree
from vop_jax.sizes import SIZES
from vop_jax.train_step import loss_of

SIZE = SIZES["demo"]
CONFIG = PromptConfig(text_length=2, video_length=2)


@pytest.fixture(scope="module")
def single():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 2, 48, 48, 3), np.uint8)
    ids = np.array([[1, 10 + n, 20 + n, SIZE.eos_id] for n in range(8)])
    model = DualEncoder(SIZE, CONFIG)
    key = jax.random.key(0)
    shapes = jax.eval_shape(model.init, {"params": key, "prompts": key}, frames, ids)
    variables = jax.tree.map(
        lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes
    )
    return model, variables, {"frames": frames, "text_ids": ids}


def loss_and_gradient(single, mesh_config, count):
    model, variables, batch = single
    mesh = make_mesh(mesh_config, jax.devices()[:count])
    mask = trained_mask(variables, METHODS["vop"].trained)
    trainable = put_tree(mesh, select(variables, mask, trained=True))
    frozen = put_tree(mesh, select(variables, mask, trained=False))
    placed = put_batch(mesh, batch)
    assert placed["frames"].sharding.spec == BATCH
    step = jax.jit(
        lambda trainable: jax.value_and_grad(
            lambda tree: loss_of(model, tree, frozen, placed)
        )(trainable)
    )
    return jax.device_get(step(trainable)), frozen


@pytest.mark.parametrize(
    ("config", "count"), [(MeshConfig(), 8), (MeshConfig(data=2, fsdp=4), 8)]
)
def test_many_devices_equal_one(single, config, count):
    (want, reference), _ = loss_and_gradient(single, MeshConfig(), 1)
    (got, gradient), frozen = loss_and_gradient(single, config, count)
    assert got == pytest.approx(want, abs=1e-6)
    for ours, theirs in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(reference), strict=True
    ):
        norm = np.linalg.norm(theirs)
        assert np.linalg.norm(ours - theirs) <= 1e-5 * norm
    kernel = frozen["params"]["vision"]["layers"]["mlp"]["fc_1"]["kernel"]
    shard = kernel.addressable_shards[0].data.size
    assert shard == kernel.size // config.fsdp


def test_the_loss_is_of_the_global_batch(single):
    """Negative control: halves of a batch have another loss than the whole."""
    (whole, _), _ = loss_and_gradient(single, MeshConfig(), 1)
    model, variables, batch = single
    half = model, variables, {name: x[:4] for name, x in batch.items()}
    (part, _), _ = loss_and_gradient(half, MeshConfig(), 1)
    assert abs(whole - part) > 1e-2


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="there are 8"):
        make_mesh(MeshConfig(data=3, fsdp=2))


def test_bfloat16_prompts_stay_float32(single):
    leaves = jax.tree.leaves(single[1]["prompts"])
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
