"""The mesh, and where leaves lie on it."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from data_pipelines.console.errors import UserError
from vop_jax.devices.config import MeshConfig
from vop_jax.devices.mesh import make_mesh, put_batch, put_tree, tree_specs


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="there are 8"):
        make_mesh(MeshConfig(data=3, fsdp=2))


def test_large_kernels_are_split_and_the_rest_is_not():
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    tree = {
        "vision": {
            "layers": {"mlp": {"fc_1": {"kernel": np.ones((3, 8, 16), np.float32)}}},
            "last_layer": {"mlp": {"fc_1": {"kernel": np.ones((6, 16), np.float32)}}},
            "ln_post": {"scale": np.ones(8, np.float32)},
        }
    }
    specs = tree_specs(mesh, {"params": tree})["params"]["vision"]
    assert specs["layers"]["mlp"]["fc_1"]["kernel"] == P(None, "fsdp", None)
    # An axis that does not divide stays whole.
    assert specs["last_layer"]["mlp"]["fc_1"]["kernel"] == P()
    assert specs["ln_post"]["scale"] == P()
    placed = put_tree(mesh, {"params": tree})["params"]["vision"]["layers"]
    kernel = jax.tree.leaves(placed)[0]
    assert kernel.addressable_shards[0].data.shape == (3, 2, 16)


def test_a_batch_that_does_not_divide_is_refused():
    mesh = make_mesh(MeshConfig())
    with pytest.raises(UserError, match=r"batch of 9 videos .* multiple of 8"):
        put_batch(mesh, {"frames": np.zeros((9, 2))})
