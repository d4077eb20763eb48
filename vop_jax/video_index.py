"""A folder of videos as one file that can be searched.

    with VideoIndex.create("videos.index") as index:
        index.update(model, "videos", checkpoint)
    with VideoIndex.open("videos.index") as index:
        found = index.search(model, ["a red circle"])

It is written in short transactions: whatever ends an update, the next one goes on.
"""

import contextlib
import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines.errors import UserError
from data_pipelines.terminal import progress
from vop_jax.index_file import OK, IndexFile, Row, create_index, open_index
from vop_jax.video_folder import (
    File,
    Listing,
    Model,
    Unreadable,
    decode_ahead,
    existing_folder,
    list_videos,
)

# Videos encoded and stored at once; what is lost at most when an update is killed.
BATCH = 32


class Hit(NamedTuple):
    """A video found, its path relative to the folder of videos."""

    rank: int
    similarity: float
    path: str


class Found(NamedTuple):
    """What a search found.

    Attributes:
        hits: of each text, best first.
        videos: how many were searched.
        seconds: what `read` (of the index), `embed` and `search` took.
    """

    hits: list[list[Hit]]
    videos: int
    seconds: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What an update did.

    Attributes:
        indexed: how many videos were read and embedded.
        unchanged: how many had been before.
        removed: how many stored files are no longer there.
        unreadable: every file and folder that gives nothing, known before or not.
        not_video: files whose name is no video's; they were not opened.
        seconds: how long it took, the listing of the folder included.
    """

    indexed: int
    unchanged: int
    removed: int
    unreadable: list[Unreadable]
    not_video: list[str]
    seconds: float


class VideoIndex:
    """An index; `open` one to search it, `create` one to fill it.

    Searches may come from several threads.

    Args:
        file: the open file.
    """

    def __init__(self, file: IndexFile):
        self._file = file
        self._lock = threading.Lock()
        # The file's version, its paths and its embeddings, since it was last read.
        self._read: tuple[int, list[str], Float[np.ndarray, "V E"]] | None = None

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: str | Path) -> Iterator["VideoIndex"]:
        """Opens an index to search it; another process may be filling it meanwhile.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        file = open_index(Path(path).expanduser().absolute())
        with contextlib.closing(file):
            yield cls(file)

    @classmethod
    @contextlib.contextmanager
    def create(cls, path: str | Path) -> Iterator["VideoIndex"]:
        """Opens an index to fill it, made if need be, for this process alone.

        Raises:
            UserError: another process is filling it, it is another kind of file, or it
                cannot be written.
        """
        with create_index(Path(path).expanduser().absolute()) as file:
            yield cls(file)

    @property
    def path(self) -> Path:
        """Its file."""
        return self._file.path

    @property
    def meta(self) -> dict[str, str]:
        """What it was made of: the model's and the videos' marks; at first empty."""
        return self._file.meta

    @property
    def videos(self) -> Path:
        """The folder of the videos."""
        return Path(self.meta["videos"])

    def update(
        self,
        model: Model,
        videos: str | Path,
        checkpoint: str | Path = "",
        *,
        rebuild: bool = False,
        retry: bool = False,
    ) -> Summary:
        """Brings the index up to date with a folder of videos.

        Args:
            model: what embeds them.
            videos: the folder.
            checkpoint: where the model came from, so that a search can load it.
            rebuild: whether all is embedded anew, whatever model or folder it was of.
            retry: whether files that could not be read are read again although they
                did not change.

        Raises:
            UserError: the index is another model's or folder's, or the folder holds no
                video.
        """
        started = time.monotonic()
        root = existing_folder(videos)
        if self.meta and not rebuild:
            self.check_model(model)
            self._check_videos(root)
        listing = list_videos(root)
        if not listing.videos:
            raise UserError(f"{root} holds no video; give another --videos")
        self._read = None
        self._write_meta(model, root, checkpoint, rebuild)
        known = self._file.known()
        removed = _vanished(known, listing)
        self._file.store([], removed)
        todo = [
            file
            for file in listing.videos
            if file not in known or (retry and known[file] != OK)
        ]
        gone = self._add(model, root, todo)
        unreadable = sorted([*self._file.unreadable(), *gone, *listing.closed])
        tried = {file.path for file in todo}
        lost = {file.path for file in unreadable}
        return Summary(
            indexed=len(tried - lost),
            unchanged=len({file.path for file in listing.videos} - tried - lost),
            removed=len(removed),
            unreadable=unreadable,
            not_video=listing.others,
            seconds=time.monotonic() - started,
        )

    def check_model(self, model: Model) -> None:
        """Makes sure that the index was made with this model.

        Raises:
            UserError: it was made with another.
        """
        made = self.meta["fingerprint"], int(self.meta["num_frames"])
        if made != (model.fingerprint, model.num_frames):
            raise UserError(
                f"{self.path} was made with another model ({self.meta['checkpoint']}, "
                f"{made[1]} frames); give that as --checkpoint, or index with --rebuild"
            )

    def search(self, model: Model, texts: Sequence[str], top: int = 10) -> Found:
        """The videos most similar to each text, by the exact inner product.

        Raises:
            UserError: the index was made with another model, it holds no video, a text
                is empty, or `top` is less than 1.
        """
        if top < 1:
            raise UserError(f"--top is {top}; it must be at least 1")
        if not all(text.strip() for text in texts):
            raise UserError("a query is empty; say what to look for")
        # Imported late: to fill an index it is not needed.
        import faiss

        times = [time.perf_counter()]
        with self._lock:
            paths, embeddings = self._embeddings()
            self.check_model(model)
        if not paths:
            raise UserError(f"{self.path} holds no video that could be read")
        times.append(time.perf_counter())
        queries = np.ascontiguousarray(model.encode_texts(list(texts)), np.float32)
        times.append(time.perf_counter())
        similarities, rows = faiss.knn(
            queries,
            embeddings,
            min(top, len(paths)),
            metric=faiss.METRIC_INNER_PRODUCT,
        )
        times.append(time.perf_counter())
        hits = []
        for values, found in zip(similarities.tolist(), rows.tolist(), strict=True):
            # Copies of a video are equally similar; their names put them in order.
            order = sorted(
                (-value, paths[row]) for value, row in zip(values, found, strict=True)
            )
            hits.append([Hit(i, -x, path) for i, (x, path) in enumerate(order, 1)])
        read, embed, search = (b - a for a, b in itertools.pairwise(times))
        seconds = {"read": read, "embed": embed, "search": search}
        return Found(hits, len(paths), seconds)

    def _embeddings(self) -> tuple[list[str], Float[np.ndarray, "V E"]]:
        version = self._file.version()
        if self._read is None or self._read[0] != version:
            self._read = version, *self._file.embeddings()
        return self._read[1:]

    def _check_videos(self, root: Path) -> None:
        # A folder that was moved keeps its index; another folder would empty it.
        if self.videos != root and self.videos.is_dir():
            raise UserError(
                f"{self.path} is of the videos in {self.videos}; give that --videos, "
                "another --output, or --rebuild"
            )

    def _write_meta(
        self, model: Model, root: Path, checkpoint: str | Path, rebuild: bool
    ) -> None:
        meta = dict(self.meta)
        empty = rebuild or not meta
        if empty:
            size = model.encode_texts(["a video"]).shape[1]
            meta["fingerprint"] = model.fingerprint
            meta["num_frames"] = str(model.num_frames)
            meta["embedding_size"] = str(size)
        meta["checkpoint"] = str(checkpoint)
        meta["videos"] = str(root)
        self._file.write_meta(meta, empty=empty)

    def _add(
        self, model: Model, root: Path, files: Sequence[File]
    ) -> Sequence[Unreadable]:
        """Embeds and stores files; returns those that were gone when opened."""
        gone: list[Unreadable] = []
        if not files:
            return gone
        lost = 0
        with (
            contextlib.closing(decode_ahead(model, root, files, BATCH)) as decoded,
            progress("indexing", total=len(files), unit="videos") as bar,
        ):
            while batch := list(itertools.islice(decoded, BATCH)):
                frames = [(x, y) for x, y in batch if not isinstance(y, Unreadable)]
                failed = [(x, y) for x, y in batch if isinstance(y, Unreadable)]
                missing = [why for _, why in failed if why.status == "missing"]
                if missing and not root.is_dir():
                    raise UserError(
                        f"{root} vanished while it was indexed; what is done is kept"
                    )
                rows = _embedded(model, frames) + [
                    Row(file, why.status, why.note, None)
                    for file, why in failed
                    # Not remembered: a file that comes back is as good as new.
                    if why.status != "missing"
                ]
                self._file.store(rows, removed=[why.path for why in missing])
                gone += missing
                lost += len(failed)
                bar.advance(len(batch), **({"unreadable": lost} if lost else {}))
        return gone


def _vanished(known: dict[File, str], listing: Listing) -> list[str]:
    """Stored files that are no longer there."""
    listed = {file.path for file in listing.videos}
    # What lies in a folder that cannot be read now may still be there.
    closed = tuple(os.path.join(folder.path, "") for folder in listing.closed)
    return [
        file.path
        for file in known
        if file.path not in listed and not file.path.startswith(closed)
    ]


def _embedded(model: Model, decoded: Sequence[tuple[File, np.ndarray]]) -> list[Row]:
    """The rows of videos that could be decoded."""
    if not decoded:
        return []
    embeddings = model.encode_videos(np.stack([frames for _, frames in decoded]))
    return [
        Row(file, OK, "", vector)
        if np.isfinite(vector).all()
        else Row(file, "unreadable", "its embedding is not finite", None)
        for (file, _), vector in zip(decoded, embeddings, strict=True)
    ]
