"""The table of data sets: name -> builder and defaults."""

import dataclasses
import importlib
from typing import Any

from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A row of the table.

    Attributes:
        builder: `module:class` of its TFDS builder, imported when it is needed.
        rendered: whether it makes its own videos, so that nothing need be given.
        num_frames: F, unless the configuration says otherwise.
        image_size: pixels, likewise.
    """

    builder: str
    rendered: bool = False
    num_frames: int = 12
    image_size: int = 224

    def load(self) -> Any:
        """The builder's class."""
        module, name = self.builder.split(":")
        return getattr(importlib.import_module(module), name)


DATASETS = {
    "demo": Dataset(
        "data_pipelines.demo.builder:Demo", rendered=True, num_frames=8, image_size=48
    ),
}


def find_dataset(name: str) -> Dataset:
    """The row of that name.

    Raises:
        UserError: there is none.
    """
    if name not in DATASETS:
        raise UserError(f"data set {name!r} is not one of {', '.join(DATASETS)}")
    return DATASETS[name]
