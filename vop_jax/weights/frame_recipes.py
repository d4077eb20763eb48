"""The frames that a backbone wants, for what decodes and prepares them."""

import os

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import warn
from data_pipelines.decoding.resizing import Resizing
from vop_jax.model.clip.families import known_size
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.weights.config_file import load_size
from vop_jax.weights.locate import find_folder


def resizing_of(size: ClipSize) -> Resizing:
    """How a backbone's frames are made square."""
    return Resizing(size.frames.resize, size.frames.filter)


def prepared_frames(backbone: str) -> tuple[int, str, str]:
    """The image size, the resizing and the filter of a backbone's frames.

    Args:
        backbone: a folder, or a name of `locate.EMBEDDED`, of the table of sizes or of
            the hub.

    Raises:
        UserError: there is none of that name, or its files are damaged.
    """
    size = known_size(backbone)
    try:
        size = load_size(find_folder(backbone))
    except UserError:
        # A folder of that name is what is meant, and a model of another name unknown.
        if size is None or os.path.lexists(backbone):
            raise
        warn(f"{backbone} cannot be fetched; its frames are taken as published")
    return size.image_size, size.frames.resize, size.frames.filter
