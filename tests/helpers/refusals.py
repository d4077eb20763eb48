"""What a backbone is refused for."""

import pytest

from data_pipelines.console.errors import UserError
from vop_jax.training.preflight import check_backbone


def check_fit(config, size, says):
    """A backbone of that size is refused by what `says` matches; empty: it fits."""
    if not says:
        check_backbone(config, size)
        return
    with pytest.raises(UserError, match=says) as error:
        check_backbone(config, size)
    assert "\n" not in str(error.value)
