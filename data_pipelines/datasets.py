"""The table of data sets: name -> annotations, builder and defaults."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines.annotations import Annotations
from data_pipelines.errors import UserError

# Videos and captions of a split; None where no figure is published.
Count = tuple[int | None, int | None]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A row of the table.

    Attributes:
        annotations: `module:function` that reads its annotations.
        builder: `module:class` of its TFDS builder, imported when it is needed.
        rendered: whether it makes its own videos, so that nothing need be given.
        num_frames: F, unless the configuration says otherwise.
        image_size: pixels, likewise.
        published: what a split holds when every video is there.
    """

    annotations: str
    builder: str
    rendered: bool = False
    num_frames: int = 12
    image_size: int = 224
    published: dict[str, Count] = dataclasses.field(default_factory=dict)

    def load(self) -> Any:
        """The builder's class."""
        return _imported(self.builder)

    def read(self, path: Path) -> Annotations:
        """Reads the annotations of a folder, or of a file; renders into it the demo.

        Raises:
            UserError: they are missing or broken.
        """
        reader: Callable[[Path], Annotations] = _imported(self.annotations)
        path = path.expanduser().absolute()
        if not path.exists() and not self.rendered:
            raise UserError(f"{path} does not exist; give another --annotations")
        return reader(path)


def _imported(name: str) -> Any:
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)


def _row(folder: str, reader: str, builder: str, **options: Any) -> Dataset:
    return Dataset(
        f"data_pipelines.{folder}.annotations:{reader}",
        f"data_pipelines.{folder}.builder:{builder}",
        **options,
    )


DATASETS = {
    "demo": _row("demo", "read", "Demo", rendered=True, num_frames=8, image_size=48),
    "msrvtt_9k": _row(
        *("msrvtt", "read_9k", "MsrVtt9k"),
        published={"train": (9_000, 180_000), "test": (1_000, 1_000)},
    ),
    "msrvtt_7k": _row(
        *("msrvtt", "read_7k", "MsrVtt7k"),
        published={"train": (7_010, 140_200), "test": (1_000, 1_000)},
    ),
    "didemo": _row(
        *("didemo", "read", "DiDeMo"),
        published={
            "train": (8_392, 8_392),
            "validation": (1_065, 1_065),
            "test": (1_004, 1_004),
        },
    ),
    "activitynet": _row(
        *("activitynet", "read", "ActivityNet"),
        published={"train": (10_009, 10_009), "test": (4_917, 4_917)},
    ),
    "lsmdc": _row(*("lsmdc", "read", "Lsmdc"), published={"test": (1_000, 1_000)}),
    "msvd": _row(
        *("msvd", "read", "Msvd"),
        published={
            "train": (1_200, None),
            "validation": (100, None),
            "test": (670, 27_763),
        },
    ),
    "vatex": _row("vatex", "read", "Vatex"),
    "custom": _row("custom", "read", "Custom"),
}


def find_dataset(name: str) -> Dataset:
    """The row of that name.

    Raises:
        UserError: there is none.
    """
    if name not in DATASETS:
        raise UserError(f"data set {name!r} is not one of {', '.join(DATASETS)}")
    return DATASETS[name]
