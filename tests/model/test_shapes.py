"""The shapes of a CLIP's parameters: written down, and those of the model."""

import dataclasses

import pytest
from small_families import FAMILIES

from vop_jax.model.clip.families import SIZES
from vop_jax.model.clip.param_shapes import param_shapes
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.tree_paths import paths

# No two sizes are equal, so that none can stand in for another.
_UNEQUAL = dataclasses.replace(
    SIZES["demo"],
    vision=dataclasses.replace(SIZES["demo"].vision, width=60, heads=3, mlp=7),
    text=dataclasses.replace(SIZES["demo"].text, width=40, heads=5, mlp=11, layers=2),
    embedding=13,
)


# Known models of every kind of part; the others differ in numbers.
_QUICK = ("demo", "vit_b32", "siglip_b16", "pe_core_g14_448", "eva02_b16")


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(size, id=name, marks=[] if name in _QUICK else [pytest.mark.slow])
        for name, size in SIZES.items()
    ]
    + [pytest.param(size, id=f"small {name}") for name, size in FAMILIES.items()]
    + [pytest.param(_UNEQUAL, id="unequal")],
)
def test_the_shapes_are_those_of_the_model(size):
    traced = abstract_variables(size, PromptConfig(num_frames=1))["params"]
    assert param_shapes(size) == {k: x.shape for k, x in paths(traced).items()}
