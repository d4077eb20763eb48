"""What an index was made with, and where its videos are."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable
from data_pipelines.decoding.cuts import WINDOWS
from vop_jax.index.encoder import VideoEncoder
from vop_jax.index.record_names import check_names
from vop_jax.index.tables import FORMAT

# Seconds of a moment, unless another length is asked for.
MOMENT_SECONDS = 8.0
# Entries of the record `identity`, and of `place`.
_NEEDED = ("fingerprint", "num_frames", "dtype", "embedding", "moment_seconds")
_MOVABLE = ("checkpoint", "videos")
# Frames of a moment, numbers of a vector; seconds; and bytes of a path.
_MOST, _LONGEST, _PATH = 1_000_000, 1e9, 4_095


@dataclasses.dataclass(frozen=True)
class Meta:
    """The records `identity` and `place` of an index.

    Attributes:
        fingerprint: of the model, which includes its compute dtype.
        num_frames: F of a moment.
        dtype: the compute dtype.
        embedding: E.
        moment_seconds: length of a moment, seconds.
        cut: where moments begin, a name of `cuts.CUTS`.
        checkpoint: where the model was loaded from; may change.
        videos: the folder of videos, as it was last updated from; may change.
    """

    fingerprint: str
    num_frames: int
    dtype: str
    embedding: int
    moment_seconds: float
    cut: str = WINDOWS
    checkpoint: str = ""
    videos: str = ""

    @classmethod
    def of(cls, records: dict[str, Any]) -> "Meta | None":
        """From the records of a store; None before an identity is stored.

        Raises:
            TypeError: a record is not one of an index.
        """
        if "identity" not in records:
            return None
        identity, place = records["identity"], records.get("place", {})
        check_names("identity", identity, _NEEDED, ("format", "cut"))
        check_names("place", place, (), _MOVABLE)
        identity = dict(identity)
        if identity.pop("format", FORMAT) != FORMAT:
            raise TypeError("identity has another format")
        meta = cls(**identity, **place)
        meta._check()
        return meta

    def _check(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # Seconds may be whole; what is stored counts for `digest`.
            kinds = (int, float) if field.type is float else (field.type,)
            if type(value) not in kinds:
                raise TypeError(f"{field.name} is {type(value).__name__}")
        for name in ("num_frames", "embedding"):
            if not 1 <= getattr(self, name) <= _MOST:
                raise TypeError(f"{name} must be from 1 to {_MOST}")
        if not 0 < self.moment_seconds <= _LONGEST:
            raise TypeError("moment_seconds must be more than 0, and a time")
        for name in _MOVABLE:
            if not _can_be_path(getattr(self, name)):
                raise TypeError(f"{name} is not a path")

    @property
    def identity(self) -> dict[str, Any]:
        """What every row must have been computed with."""
        identity = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "num_frames": self.num_frames,
            "dtype": self.dtype,
            "embedding": self.embedding,
            "moment_seconds": self.moment_seconds,
        }
        # Indexes from before there was a choice do not name it.
        return identity if self.cut == WINDOWS else identity | {"cut": self.cut}

    @property
    def place(self) -> dict[str, str]:
        """What may change between updates."""
        return {"checkpoint": self.checkpoint, "videos": self.videos}

    @property
    def digest(self) -> str:
        """Of the identity; every row of `videos` carries it."""
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check_model(self, model: VideoEncoder, place: object) -> None:
        """Checks that an index was made with a model.

        Args:
            model: a model.
            place: the index, for the message.

        Raises:
            UserError: it was made with another.
        """
        made = self.fingerprint, self.num_frames
        if made != (model.fingerprint, model.num_frames):
            raise UserError(
                f"{place} was made with another model ({printable(self.checkpoint)}, "
                f"{self.num_frames} frames); pass that as --checkpoint, or index with "
                "--rebuild"
            )

    def check_same(
        self,
        root: Path,
        moment_seconds: float | None,
        cut: str | None,
        place: object,
    ) -> None:
        """Checks that an update is of the same folder and kind of moments.

        Args:
            root: the folder.
            moment_seconds: None for that of the index.
            cut: likewise.
            place: the index, for the message.

        Raises:
            UserError: it is of others.
        """
        if moment_seconds not in (None, self.moment_seconds):
            raise UserError(
                f"{place} has moments of {self.moment_seconds:g} seconds; pass "
                f"--moment_seconds={self.moment_seconds:g}, or index with --rebuild"
            )
        if cut not in (None, self.cut):
            cuts = printable(self.cut[:100])
            raise UserError(
                f"{place} is cut into {cuts}; pass --cut={cuts}, or index with "
                "--rebuild"
            )
        # A moved folder keeps its index; an update from another folder would empty it.
        before = Path(self.videos)
        if self.videos and before != root and os.path.isdir(before):
            raise UserError(
                f"{place} is of the videos in {printable(self.videos)}; pass that as "
                "--videos, or use another --output, or --rebuild"
            )


def _can_be_path(text: str) -> bool:
    """Whether the system could have such a path; its bytes need not be UTF-8."""
    try:
        return len(os.fsencode(text)) <= _PATH and "\0" not in text
    # Half a character.
    except UnicodeEncodeError:
        return False
