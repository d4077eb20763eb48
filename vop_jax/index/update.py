"""Brings an index up to date with its folder: what is read, kept, and stored."""

import contextlib
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import Bar, progress
from data_pipelines.decoding.video_status import OF_THE_MOMENT
from vop_jax.index.contents import with_contents
from vop_jax.index.encoder import VideoEncoder
from vop_jax.index.listing import File, Listing, Unreadable
from vop_jax.index.meta import Meta
from vop_jax.index.shards import Shard
from vop_jax.index.store import Store
from vop_jax.index.tables import OK, REMOVED, MomentRow, VideoRow, new_id
from vop_jax.index.valid_rows import faults_in

if TYPE_CHECKING:
    from data_pipelines.decoding.moments import Moment, VideoEnd

# Moments that are encoded at once, and how many are decoded ahead of them.
BATCH = 32
# Seconds between two commits; a killed process loses the videos of so many.
STORE_SECONDS = 2.0
# Pixels of a thumbnail, and its JPEG quality.
THUMBNAIL, _QUALITY = 160, 80


@dataclasses.dataclass(frozen=True)
class Summary:
    """The outcome of an update.

    Attributes:
        indexed: number of videos that were read and embedded.
        unchanged: number of videos that were indexed before.
        kept: number of moved, renamed or copied videos, which kept their moments.
        removed: number of stored files that no longer exist, moved ones left out.
        moments: number of moments that were embedded.
        partly: files of which only a part could be read.
        unreadable: every unreadable file and folder, known before or not.
        not_video: files without a video suffix, which were not opened.
        recall: of the approximate index against exact search, from 0 to 1; None
            without one.
        seconds: duration, including the listing of the folder.
    """

    indexed: int
    unchanged: int
    kept: int
    removed: int
    moments: int
    partly: list[Unreadable]
    unreadable: list[Unreadable]
    not_video: list[str]
    recall: float | None
    seconds: float


class Plan:
    """What an update has to do.

    Args:
        listing: the folder's content.
        known: the row of each path, from `newest`.
        whole: the sets whose moments are all there.
        shard: the part of the videos that this process owns.
        retry: whether to read unreadable files again even if they did not change.

    Attributes:
        own: the listed videos that this process owns.
        gone: the rows of its videos that no longer exist.
        todo: videos that are new, or have changed.
        unchanged: number of the others that have moments.
    """

    def __init__(
        self,
        listing: Listing,
        known: Mapping[str, VideoRow],
        whole: set[str],
        shard: Shard,
        retry: bool,
    ):
        self.own = [file for file in listing.videos if shard.owns(file.path)]
        listed = {file.path for file in listing.videos}
        # Files in a folder that is unreadable now may still exist.
        closed = tuple(os.path.join(folder.path, "") for folder in listing.closed)
        faults = faults_in(known)
        sound = {path: row for path, row in known.items() if path not in faults}
        self.gone = [
            row
            for path, row in known.items()
            if path not in listed and shard.owns(path) and not path.startswith(closed)
        ]
        self.todo = [
            file
            for file in self.own
            if not _is_current(file, sound.get(file.path), whole, retry)
        ]
        kept = {file.path for file in self.own} - {file.path for file in self.todo}
        self.unchanged = sum(sound[path].moments > 0 for path in kept)
        # The content of a path that is written again in place is not trusted.
        self._movable = {
            (row.size, row.content): row
            for row in sound.values()
            if row.status == OK and row.content and row.moment_set in whole
        }
        self._known = known

    def copy_of(self, file: File, content: str) -> VideoRow | None:
        """The stored video with the same content as a new file."""
        if file.path in self._known:
            return None
        return self._movable.get((file.size, content))


def _is_current(file: File, row: VideoRow | None, whole: set[str], retry: bool) -> bool:
    if row is None or (row.size, row.mtime_ns) != (file.size, file.mtime_ns):
        return False
    # Moments can be lost with a damaged file of the store.
    if row.moment_set and row.moment_set not in whole:
        return False
    return row.status == OK or not (retry or row.status in OF_THE_MOMENT)


class Updater:
    """Embeds videos and stores them.

    Args:
        store: has its tables.
        meta: of the index.
        model: embeds the moments.
        root: the folder of videos.

    Attributes:
        indexed: number of videos that were embedded.
        moments: number of their moments.
        kept: number of videos that kept the moments of a copy.
        moved: number of those whose copy exists no more.
        gone: files that are unreadable at the moment, which is not stored.
    """

    def __init__(self, store: Store, meta: Meta, model: VideoEncoder, root: Path):
        self._store, self._meta, self._model, self._root = store, meta, model, root
        self.indexed = self.moments = self.kept = self.moved = 0
        # How many files of a size and content exist no more and were not moved.
        self._lost: Counter[tuple[int, str]] = Counter()
        self.gone: list[Unreadable] = []
        self._open: dict[int, _Film] = {}
        # The videos of this update by size and content.
        self._of_content: dict[tuple[int, str], VideoRow] = {}
        self._moments: list[MomentRow] = []
        self._videos: list[VideoRow] = []
        self._stored = time.monotonic()

    def run(self, plan: Plan) -> None:
        """Does what is to do.

        Raises:
            UserError: the folder vanishes, or the store cannot be written.
        """
        self._remove(plan)
        try:
            if plan.todo:
                self._add(plan)
        except BaseException:
            # What is done is kept, unless it is the store that fails.
            with contextlib.suppress(UserError):
                self._flush()
            raise
        self._flush()

    def _add(self, plan: Plan) -> None:
        with progress("indexing", total=len(plan.todo), unit="videos") as bar:
            later: list[tuple[File, str]] = []
            files = with_contents(self._root, plan.todo)
            self._read(self._new(plan, files, later, bar), bar)
            # Copies within the folder: what the first of them has become.
            again = [
                (file, content)
                for file, content in later
                if not self._keep(file, self._of_content.get((file.size, content)), bar)
            ]
            self._read(iter(again), bar)

    def _remove(self, plan: Plan) -> None:
        self._videos += [_gone(row.path, row.identity) for row in plan.gone]
        self._lost.update((x.size, x.content) for x in plan.gone if x.content)

    def _new(
        self,
        plan: Plan,
        files: Iterable[tuple[File, str]],
        later: list[tuple[File, str]],
        bar: Bar,
    ) -> Iterator[tuple[File, str]]:
        """Yields the files to decode; those with known content are stored at once."""
        begun: set[tuple[int, str]] = set()
        for file, content in files:
            key = file.size, content
            if self._keep(file, plan.copy_of(file, content), bar):
                continue
            if content and key in begun:
                later.append((file, content))
                continue
            begun.add(key)
            yield file, content

    def _keep(self, file: File, row: VideoRow | None, bar: Bar) -> bool:
        """Stores a file as a copy of a stored video."""
        if row is None:
            return False
        self._videos.append(
            row._replace(
                id=new_id(), path=file.path, size=file.size, mtime_ns=file.mtime_ns
            )
        )
        self.kept += 1
        if self._lost[row.size, row.content]:
            self._lost[row.size, row.content] -= 1
            self.moved += 1
        bar.advance()
        self._flush_in_time()
        return True

    def _read(self, files: Iterator[tuple[File, str]], bar: Bar) -> None:
        """Decodes, embeds and stores files."""
        from data_pipelines.decoding.moments import VideoEnd

        started: list[tuple[File, str]] = []

        def paths() -> Iterator[Path]:
            for file, content in files:
                started.append((file, content))
                yield self._root / file.path

        batch: list[tuple[_Film, Moment]] = []
        seconds, cut = self._meta.moment_seconds, self._meta.cut
        reading = self._model.read_moments(paths(), seconds, BATCH, cut)
        with contextlib.closing(reading):
            for place, answer in reading:
                film = self._open.setdefault(place, _Film(*started[place]))
                if isinstance(answer, VideoEnd):
                    film.end = answer
                    self._finish(place, bar)
                    continue
                film.begun += 1
                batch.append((film, answer))
                if len(batch) == BATCH:
                    self._embed(batch, bar)
                    batch = []
        self._embed(batch, bar)

    def _embed(self, batch: Sequence[tuple["_Film", "Moment"]], bar: Bar) -> None:
        if not batch:
            return
        frames = np.stack([moment.frames for _, moment in batch])
        vectors = self._model.encode_videos(frames)
        for (film, moment), vector in zip(batch, vectors, strict=True):
            film.add(moment, vector)
        self.moments += len(batch)
        for place in [place for place, film in self._open.items() if film.end]:
            self._finish(place, bar)

    def _finish(self, place: int, bar: Bar) -> None:
        """Makes the rows of a film that has ended and whose moments are embedded."""
        film = self._open[place]
        end = film.end
        if end is None or film.begun > film.done:
            return
        del self._open[place]
        status, note = end.status or OK, end.message
        if not film.rows and status == OK:
            status, note = "unreadable", "its embedding is not finite"
        elif film.lost and status == OK:
            status, note = "corrupt", f"{film.lost} embeddings are not finite"
        row = VideoRow(
            id=new_id(),
            path=film.file.path,
            size=film.file.size,
            mtime_ns=film.file.mtime_ns,
            content=film.content,
            moment_set=film.name if film.rows else "",
            moments=len(film.rows),
            duration=float(end.duration),
            width=end.width,
            height=end.height,
            status=status,
            note=note,
            identity=self._meta.digest,
        )
        if not film.rows and status in OF_THE_MOMENT:
            self._pass_over(row)
        else:
            self._moments += film.rows
            self._videos.append(row)
            if row.status == OK and row.content:
                self._of_content[row.size, row.content] = row
        self.indexed += bool(film.rows)
        bar.advance(1, **{"moments": f"{self.moments:,}"})
        self._flush_in_time()

    def _pass_over(self, row: VideoRow) -> None:
        """Records a temporary condition: it is not stored, the next update retries."""
        if not self._root.is_dir():
            raise UserError(
                f"{self._root} vanished while it was indexed; what is done is kept"
            )
        self.gone.append(Unreadable(row.path, row.status, row.note))
        # Only a path that has a row needs one that says that it is gone.
        self._videos.append(row._replace(status=REMOVED, note=""))

    def _flush_in_time(self) -> None:
        if time.monotonic() - self._stored >= STORE_SECONDS:
            self._flush()

    def _flush(self) -> None:
        self._store.append(self._moments, self._videos)
        self._moments, self._videos = [], []
        self._stored = time.monotonic()


class _Film:
    """A video in progress."""

    def __init__(self, file: File, content: str):
        self.file, self.content, self.name = file, content, new_id()
        self.end: VideoEnd | None = None
        self.begun = self.done = self.lost = 0
        self.rows: list[MomentRow] = []

    def add(self, moment: "Moment", vector: Float[np.ndarray, "E"]) -> None:
        """Adds an embedded moment; one that is not finite is left out."""
        self.done += 1
        stored = vector.astype(np.float16)
        if not np.isfinite(stored).all():
            self.lost += 1
            return
        number = len(self.rows)
        picture = thumbnail(moment.frames[len(moment.frames) // 2])
        self.rows.append(
            MomentRow(self.name, number, moment.start, moment.end, stored, picture)
        )


def thumbnail(frame: UInt8[np.ndarray, "S S 3"]) -> bytes:
    """A small JPEG of a frame."""
    import io

    from PIL import Image

    image = Image.fromarray(frame)
    # In place, and never larger than the frame.
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _gone(path: str, identity: str) -> VideoRow:
    """Says that a path exists no more, whatever its last row held."""
    about = (-1, 0, "", "", 0, 0.0, 0, 0)
    return VideoRow(new_id(), path, *about, REMOVED, "", identity)


def faulty(rows: Iterable[VideoRow]) -> list[Unreadable]:
    """The videos that could not be read to the end."""
    return [Unreadable(x.path, x.status, x.note) for x in rows if x.status != OK]
