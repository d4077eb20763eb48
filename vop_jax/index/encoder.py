"""The interface of a model that an index needs."""

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float, UInt8

# Imported late by an update alone: a search decodes nothing.
if TYPE_CHECKING:
    from data_pipelines.decoding.moments import Moment, VideoEnd


class VideoEncoder(Protocol):
    """A model that embeds videos and texts."""

    @property
    def num_frames(self) -> int:
        """F."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the weights and the dtype they compute in."""
        ...

    @property
    def dtype(self) -> str:
        """The compute dtype, which a search loads the model with again."""
        ...

    def read_moments(
        self, paths: Iterable[Path], seconds: float, ahead: int, cut: str, /
    ) -> Generator[tuple[int, "Moment | VideoEnd"], None, None]:
        """Yields the moments of many files, and the end of each.

        The moments of one file come in order, those of several files as they are
        decoded, each with the index of its path.
        """
        ...

    def encode_videos(
        self, frames: UInt8[np.ndarray, "B F H W 3"], /
    ) -> Float[np.ndarray, "B E"]:
        """Embeddings of videos."""
        ...

    def encode_texts(self, texts: list[str], /) -> Float[np.ndarray, "B E"]:
        """Embeddings of texts."""
        ...
