"""The names that a configuration allows are those of the tables behind them."""

import jax.numpy as jnp

from vop_jax.model.clip.remat import POLICIES
from vop_jax.model.compute import DTYPES, REMATS
from vop_jax.model.prompts import context, sources
from vop_jax.model.prompts.config import CMM_ROLES, CMMS


def test_every_name_has_its_row_and_every_row_its_name():
    assert tuple(POLICIES) == REMATS
    assert tuple(context.MODELS) == CMMS
    assert tuple(sources.ROLES) == CMM_ROLES
    assert DTYPES[0] == "auto"
    assert [jnp.dtype(name).name for name in DTYPES[1:]] == list(DTYPES[1:])
