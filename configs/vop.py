"""The configuration of `vop_jax.configs.vop`, by a path that the commands take."""

from ml_collections import ConfigDict

from vop_jax.configs import vop


def get_config(short_form: str = "") -> ConfigDict:
    """The same; see there."""
    return vop.get_config(short_form)
