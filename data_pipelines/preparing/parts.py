"""A part of a data set: some videos, decoded and written as one file of records.

Any machine makes any part, in any order, from a line of the list of parts alone, and a
part that is there is not made again. A part's file is a line of JSON that says how each
video fared and how long its record is, then the records as a shard holds them, so that
a shard is joined of parts by copying bytes.
"""

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.catalog.annotations import Video
from data_pipelines.console.errors import UserError
from data_pipelines.decoding.frame_store import read_frames
from data_pipelines.decoding.resizing import CLIP_RESIZING
from data_pipelines.decoding.video_job import UNWRITABLE, DecodeJob, Result
from data_pipelines.decoding.workers import Workers
from data_pipelines.files.store_errors import Denied
from data_pipelines.files.stores import Store
from data_pipelines.preparing.part_files import Outcome, checksums_of, read_part

# The list of parts, a line of JSON each.
LIST = "listed-parts"
# Lines of a page of a list: a page is read from its beginning to the line.
_PAGE_LINES = 64


class Line(NamedTuple):
    """Where a line of a list is; all that is sent to the machine that does it.

    Attributes:
        page: the number of the file.
        start: its first byte there.
        size: bytes.
    """

    page: int
    start: int
    size: int


def write_list(store: Store, name: str, lines: Sequence[str]) -> list[Line]:
    """Writes a list in pages; returns where each of its lines is."""
    places: list[Line] = []
    for page, begin in enumerate(range(0, len(lines), _PAGE_LINES)):
        start, encoded = 0, []
        for line in lines[begin : begin + _PAGE_LINES]:
            encoded.append(line.encode() + b"\n")
            places.append(Line(page, start, len(encoded[-1]) - 1))
            start += len(encoded[-1])
        store.write(f"{name}/{page:06d}.jsonl", b"".join(encoded))
    return places


def read_line(store: Store, name: str, line: Line) -> str:
    """Reads a line of a list."""
    page = f"{name}/{line.page:06d}.jsonl"
    return store.read(page, line.start, line.size).decode()


class PartVideo(NamedTuple):
    """A video of a part.

    Attributes:
        video: its id, its captions and its extras.
        file: a local path, or the URI of an object.
        size: bytes.
        changed: when it was written, ns since 1970.
    """

    video: Video
    file: str
    size: int
    changed: int

    @property
    def is_remote(self) -> bool:
        """Whether it is in an object store."""
        return "://" in self.file


class Recipe(NamedTuple):
    """How all parts are made.

    Attributes:
        place: the folder of parts, a local path or a URI.
        num_frames: F.
        image_size: height and width, pixels.
        max_bytes: a larger file counts as `too_large`.
        ignore_pixel_aspect: whether non-square pixels count as square.
        resizing: how frames are made square.
        workers: decoding processes for each part in progress; None for one per core.
        seconds: time limit per file.
    """

    place: str
    num_frames: int
    image_size: int
    max_bytes: int
    ignore_pixel_aspect: bool = False
    resizing: Sequence[str] = CLIP_RESIZING
    workers: int | None = 1
    seconds: float = 120.0


def text_of(videos: Sequence[PartVideo]) -> str:
    """The line of the list for a part of these videos."""
    return json.dumps(videos)


def name_of(line: str) -> str:
    """The name of a part's file, which differs with everything the part is made of."""
    digest = hashlib.sha256(line.encode()).hexdigest()[:32]
    return f"{digest[:2]}/{digest[2:]}"


def make_part(recipe: Recipe, line: Line) -> None:
    """Decodes the videos of a part and writes its file, unless it is there.

    Args:
        recipe: how.
        line: where its videos are listed.

    Raises:
        UserError: a store cannot be used, or this machine has no room.
    """
    store = Store(recipe.place)
    text = read_line(store, LIST, line)
    name = name_of(text)
    videos = [PartVideo(Video(*x[0]), *x[1:]) for x in json.loads(text)]
    there = read_part(store, name, len(videos))
    if there and there.is_final and there.size == store.size(name):
        return
    with tempfile.TemporaryDirectory(prefix="vop-part-") as folder:
        outcomes, records = _records(recipe, videos, Path(folder))
        head = json.dumps(outcomes).encode() + b"\n"
        with store.writing(name) as file, records.open("rb") as source:
            file.write(head)
            shutil.copyfileobj(source, file, 8 << 20)


def _records(
    recipe: Recipe, videos: Sequence[PartVideo], folder: Path
) -> tuple[list[Outcome], Path]:
    """Decodes videos and writes the file of their records."""
    # Imported late: it takes seconds, and whoever plans the parts needs none of it.
    from data_pipelines.preparing.shards import example_of

    results: list[Result] = []

    def examples() -> Iterator[dict[str, Any]]:
        decoded = _decoded(recipe, videos, folder)
        for video, (result, frames) in zip(videos, decoded, strict=True):
            results.append(result)
            if frames is not None:
                yield example_of(video.video, frames)

    path = folder / "records"
    sizes = _writer(recipe.num_frames, recipe.image_size).write(path, examples())
    with path.open("rb") as file:
        made = zip(sizes, checksums_of(file, sizes), strict=True)
    return [
        Outcome(x.status, x.message, x.notes, *((0, 0) if x.status else next(made)))
        for x in results
    ], path


def _decoded(
    recipe: Recipe, videos: Sequence[PartVideo], folder: Path
) -> Iterator[tuple[Result, list[bytes] | None]]:
    """Yields, in order, how each video fares and its frames."""

    def jobs() -> Iterator[Any]:
        for place, video in enumerate(videos):
            file = video.file
            if video.is_remote:
                copy = _fetched(video, folder / str(place), recipe.max_bytes)
                if isinstance(copy, Result):
                    yield copy
                    continue
                file = str(copy)
            yield DecodeJob(
                file,
                str(folder / f"{place}.frames"),
                recipe.num_frames,
                recipe.image_size,
                recipe.max_bytes,
                recipe.ignore_pixel_aspect,
                recipe.resizing,
            )

    pool = _pool(recipe.workers, recipe.seconds)
    # As many again are fetched while as many are decoded.
    for place, job, result, _ in pool.decode(jobs(), 2 * pool.count, in_order=True):
        if isinstance(job, Result):
            yield job, None
            continue
        video = videos[place]
        if result.status == UNWRITABLE:
            raise UserError(f"{result.message}; make room and run the command again")
        if video.is_remote:
            shutil.rmtree(folder / str(place), ignore_errors=True)
            # The line is about the object; where its copy was says nothing.
            message = result.message.replace(job.video, video.file)
            result = result._replace(message=message)
        if result.status:
            yield result, None
            continue
        frames = Path(job.frames)
        stored = read_frames(frames)
        if stored is None:
            raise UserError(f"{frames} is gone; leave the folder of temporary files be")
        frames.unlink()
        yield result, stored.frames


def _fetched(video: PartVideo, folder: Path, max_bytes: int) -> Path | Result:
    """A copy of a remote video on this machine, or why there is none."""
    if video.size > max_bytes:
        message = f"{video.file} has {video.size:,} bytes, more than {max_bytes:,}"
        return Result("too_large", message)
    parent, _, name = video.file.rpartition("/")
    folder.mkdir()
    try:
        Store(parent).fetch(name, folder / name)
    except FileNotFoundError:
        return Result("missing", f"{video.file} does not exist (it was removed)")
    # Any other error of a store is none of this video's, and ends the work.
    except Denied:
        return Result("denied", f"{video.file} may not be read (access denied)")
    return folder / name


@functools.lru_cache(maxsize=4)
def _pool(workers: int | None, seconds: float) -> Workers:
    """The decoding processes of this process, which all its parts share."""
    return Workers(workers, seconds)


@functools.lru_cache(maxsize=4)
def _writer(num_frames: int, image_size: int) -> Any:
    from data_pipelines.preparing.shards import RecordWriter

    return RecordWriter(num_frames, image_size)
