"""The table of data sets: name -> annotations, builder and defaults."""

import dataclasses
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.catalog.annotations import Annotations
from data_pipelines.console.errors import UserError
from data_pipelines.console.names import pick

# Number of videos and captions of a split; None if no number is published.
Count = tuple[int | None, int | None]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A row of the table.

    Attributes:
        annotations: `module:function` that reads its annotations.
        builder: `module:class` of its TFDS builder, imported when it is needed.
        rendered: whether it renders its own videos, so that no files are needed.
        num_frames: default of F.
        image_size: default height and width of frames, pixels.
        published: the published number of videos and captions of each split.
        sizes: for a rendered data set, `module:name` of a table of the number of videos
            of each split.
        frame_captions: for a data set that knows what its frames show,
            `module:function` of the captions of its training videos' frames.
    """

    annotations: str
    builder: str
    rendered: bool = False
    num_frames: int = 12
    image_size: int = 224
    published: dict[str, Count] = dataclasses.field(default_factory=dict)
    sizes: str = ""
    frame_captions: str = ""

    def load(self) -> Any:
        """The builder's class."""
        return _imported(self.builder)

    def sizes_to_be(self) -> dict[str, int]:
        """Number of videos of each split to come; empty if that depends on files."""
        return dict(_imported(self.sizes)) if self.sizes else {}

    def frame_captions_of(
        self, pick: Callable[[int], Sequence[int]]
    ) -> Mapping[str, Sequence[str]] | None:
        """The captions of the frames of each training video; None if it has none.

        Args:
            pick: the number of a video's frames -> the indices of those described.
        """
        if not self.frame_captions:
            return None
        return _imported(self.frame_captions)(pick)

    def read(self, path: Path) -> Annotations:
        """Reads the annotations of a folder or a file; the demo is rendered into it.

        Raises:
            UserError: they are missing or invalid.
        """
        reader: Callable[[Path], Annotations] = _imported(self.annotations)
        path = path.expanduser().absolute()
        # `Path.exists` raises an error for a name that is too long.
        if not os.path.exists(path) and not self.rendered:
            raise UserError(f"{path} does not exist; use another --annotations")
        return reader(path)


def _imported(name: str) -> Any:
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)


def _row(folder: str, reader: str, builder: str, **options: Any) -> Dataset:
    return Dataset(
        f"data_pipelines.datasets.{folder}.annotations:{reader}",
        f"data_pipelines.datasets.{folder}.builder:{builder}",
        **options,
    )


DATASETS = {
    "demo": _row(
        *("demo", "read", "Demo"),
        rendered=True,
        num_frames=8,
        image_size=48,
        sizes="data_pipelines.datasets.demo.world:SPLITS",
        frame_captions=(
            "data_pipelines.datasets.demo.frame_captions:of_training_clips"
        ),
    ),
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
    """Looks up a data set by its name.

    Raises:
        UserError: there is no such data set.
    """
    return pick(DATASETS, name, "data set")
