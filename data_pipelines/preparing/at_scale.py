"""Prepares a data set by parts: on many machines, or into an object store.

The videos of each split are listed and cut into parts. Every part is made where it may
be made (`parts`), then every shard is joined of parts (`joining`), then the files that
say what the shards are follow, `dataset_info.json` last: no reader takes shards without
it for a data set. What is there is not made again, so the same command resumes; the
shards are, byte for byte, those that one machine writes.
"""

import concurrent.futures
import contextlib
import functools
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.catalog.annotations import Annotations
from data_pipelines.catalog.table import find_dataset
from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import progress
from data_pipelines.decoding.resizing import Resizing
from data_pipelines.decoding.video_files import VideoFiles
from data_pipelines.decoding.video_job import Result
from data_pipelines.files.stores import Store
from data_pipelines.preparing import joining, parts
from data_pipelines.preparing.decode_all import (
    JUDGED,
    AnnotatedFile,
    Finished,
    Limits,
    check_gaps,
    find_records,
    order_of,
    provenance_of_kept,
    report_of,
    with_frames,
)
from data_pipelines.preparing.joining import Joining, join_shard, plan_shards
from data_pipelines.preparing.part_files import OVERHEAD, Part, read_part
from data_pipelines.preparing.parts import (
    Line,
    PartVideo,
    Recipe,
    make_part,
    name_of,
    text_of,
    write_list,
)
from data_pipelines.preparing.provenance import FILE, recipe_of

# The file whose presence makes shards a data set.
MARKER = "dataset_info.json"
REPORT = "files.json"
# Videos of a part: few enough that one lost costs little, and many enough that ten
# million videos are a list of parts that any runner takes.
PART_VIDEOS = 64
# Parts whose first lines are read at the same time.
_READERS = 16

# Runs a function on every line of a list, in any order, anywhere.
Run = Callable[[Callable[[Line], None], Sequence[Line]], Iterator[object]]


class Places(NamedTuple):
    """Where a data set is prepared.

    Attributes:
        work: the folder of what is removed at the end.
        target: the folder of the shards.
    """

    work: Store
    target: Store


class _Planned(NamedTuple):
    """A split's part.

    Attributes:
        line: where it is listed.
        name: of its file.
        files: of its videos, in order.
    """

    line: Line
    name: str
    files: list[Path]


def run_here(function: Callable[[Line], None], lines: Sequence[Line]) -> Iterator[None]:
    """Runs a function on every line in this process, one after another."""
    for line in lines:
        yield function(line)


def prepare_by_parts(
    dataset: str,
    *,
    found: Annotations,
    videos: "str | Path",
    places: Places,
    num_frames: int,
    image_size: int,
    resizing: Resizing,
    limits: Limits,
    workers: int | None,
    seconds: float,
    run: Run,
    origin: Mapping[str, str],
) -> None:
    """Prepares a data set by parts.

    Args:
        dataset: its name.
        found: its annotations.
        videos: the folder of the videos, local or in an object store.
        places: where.
        num_frames: F.
        image_size: height and width, pixels.
        resizing: how frames are made square.
        limits: how problematic files are treated.
        workers: decoding processes for each part in progress; None for one per core.
        seconds: time limit per file.
        run: makes the parts and the shards.
        origin: what the provenance says of the videos besides.

    Raises:
        UserError: as of `decode_all.finish`, or a store cannot be used.
    """
    files = VideoFiles(videos)
    records = find_records(found, files)
    for split in order_of(records):
        check_gaps(split, records[split], {}, limits)
    made = recipe_of(num_frames, image_size, limits.ignore_pixel_aspect, resizing)
    # Parts that another version made in another way are not reused.
    folder = f"parts/{made.digest[:16]}"
    recipe = Recipe(
        places.work.at(folder),
        num_frames,
        image_size,
        limits.max_bytes,
        limits.ignore_pixel_aspect,
        resizing,
        workers,
        seconds,
    )
    store = Store(recipe.place)
    planned = _list_parts(store, records, files)
    outcomes = _make_parts(dataset, store, recipe, planned, records, limits, run)
    kept = with_frames(records, outcomes.failed, files.root)
    report = report_of(records, outcomes.failed, lambda x: outcomes.notes[x])
    provenance = provenance_of_kept(dataset, made, found.files, records, kept)
    provenance |= origin
    written = _join(dataset, store, places.target, outcomes.parts, run)
    finished = Finished(kept, Path(), num_frames, image_size, report, provenance)
    _describe(dataset, finished, written, places.target)


def _list_parts(
    store: Store, records: dict[str, list[AnnotatedFile]], files: VideoFiles
) -> dict[str, list[_Planned]]:
    """Writes the list of all parts; returns them by split."""
    planned: dict[str, list[_Planned]] = {}
    lines: list[str] = []
    for split, listed in records.items():
        whole = [
            (x.file, PartVideo(x.video, str(x.file), *files.about(x.file)))
            for x in listed
            if x.file is not None
        ]
        planned[split] = []
        for begin in range(0, len(whole), PART_VIDEOS):
            own = whole[begin : begin + PART_VIDEOS]
            lines.append(text_of([video for _, video in own]))
            planned[split].append(
                _Planned(Line(0, 0, 0), name_of(lines[-1]), [file for file, _ in own])
            )
    places = iter(write_list(store, parts.LIST, lines))
    return {
        split: [part._replace(line=next(places)) for part in listed]
        for split, listed in planned.items()
    }


class _Outcomes(NamedTuple):
    """How all videos fared.

    Attributes:
        parts: of each split, in order.
        failed: the files without frames.
        notes: the harmless statuses of the others.
    """

    parts: dict[str, list[Part]]
    failed: dict[Path, Result]
    notes: dict[Path, Sequence[str]]


def _make_parts(
    dataset: str,
    store: Store,
    recipe: Recipe,
    planned: dict[str, list[_Planned]],
    records: dict[str, list[AnnotatedFile]],
    limits: Limits,
    run: Run,
) -> _Outcomes:
    """Makes the parts that are not there, evaluation splits first."""
    failed: dict[Path, Result] = {}
    notes: dict[Path, Sequence[str]] = {}
    made: dict[str, list[Part]] = {}
    # A gap in an evaluation split must show before hours go into training videos.
    judged = [split for split in planned if split in JUDGED]
    for splits in (judged, [split for split in planned if split not in JUDGED]):
        listed = [part for split in splits for part in planned[split]]
        title = f"{dataset} {' and '.join(splits)}"
        found = iter(_make(store, listed, title, recipe, run))
        for split in splits:
            made[split] = [next(found) for _ in planned[split]]
            for about, part in zip(planned[split], made[split], strict=True):
                for file, outcome in zip(about.files, part.outcomes, strict=True):
                    if outcome.status:
                        failed[file] = Result(outcome.status, outcome.message)
                    else:
                        notes[file] = outcome.notes
            check_gaps(split, records[split], failed, limits)
    return _Outcomes({split: made[split] for split in planned}, failed, notes)


def _make(
    store: Store, listed: Sequence[_Planned], title: str, recipe: Recipe, run: Run
) -> list[Part]:
    """Makes those of some parts that are not there; returns all."""
    there = _read_parts(store, listed)
    missing = [
        about.line
        for about, part in zip(listed, there, strict=True)
        if part is None or not part.is_final
    ]
    if missing:
        _run(title, "parts", run, recipe, make_part, missing)
        there = _read_parts(store, listed)
    for about, part in zip(listed, there, strict=True):
        if part is None:
            raise UserError(
                f"the runner finished without {store.at(about.name)}; do its machines "
                "see --output under the same path? An object store is seen by all"
            )
    return [part for part in there if part is not None]


def _read_parts(store: Store, planned: Sequence[_Planned]) -> list[Part | None]:
    """What the parts say of themselves; None of each that is missing or damaged."""
    sizes = {name: about.size for name, about in store.files().items()}

    def read(part: _Planned) -> Part | None:
        if part.name not in sizes:
            return None
        found = read_part(store, part.name, len(part.files))
        return found if found and found.size == sizes[part.name] else None

    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read, planned))


def _run(
    title: str,
    unit: str,
    run: Run,
    how: Any,
    function: Callable[[Any, Line], None],
    lines: Sequence[Line],
) -> None:
    with progress(title, len(lines), unit) as bar:
        for _ in run(functools.partial(function, how), lines):
            bar.advance(1)


def _join(
    dataset: str,
    store: Store,
    target: Store,
    made: dict[str, list[Part]],
    run: Run,
) -> dict[str, list[joining.Shard]]:
    """Joins the shards that are not there; returns those of each split."""
    shards = {split: plan_shards(dataset, split, own) for split, own in made.items()}
    listed = [shard for own in shards.values() for shard in own]
    lines = [json.dumps(shard) for shard in listed]
    # Notes of shards of another preparation, which has written over these, are void.
    done = f"joined/{joining.digest_of(lines)}"
    noted = set()
    for name in store.files("joined"):
        folder, _, shard = name.rpartition("/")
        if folder == done:
            noted.add(shard)
        else:
            store.remove(folder)
    sizes = {name: about.size for name, about in target.files().items()}
    places = write_list(store, joining.LIST, lines)
    missing = [
        line
        for shard, line in zip(listed, places, strict=True)
        if shard.name not in noted or sizes.get(shard.name) != shard.size
    ]
    if missing:
        where = Joining(store.place, target.place, done)
        _run(f"{dataset} shards", "shards", run, where, join_shard, missing)
        sizes = {name: about.size for name, about in target.files().items()}
    for shard in listed:
        if sizes.get(shard.name) != shard.size:
            raise UserError(
                f"the runner finished without {target.at(shard.name)}; run the "
                "command again"
            )
    return shards


def _describe(
    dataset: str,
    finished: Finished,
    shards: dict[str, list[joining.Shard]],
    target: Store,
) -> None:
    """Writes the files beside the shards, the one that makes them a data set last."""
    # Imported late: it takes seconds.
    import tensorflow_datasets as tfds

    from data_pipelines.preparing.shards import WrittenSplit

    tfds.disable_progress_bar()
    written = {
        split: WrittenSplit(
            [shard.records for shard in own],
            sum(x.size - OVERHEAD * x.records for x in own),
        )
        for split, own in shards.items()
    }
    with tempfile.TemporaryDirectory(prefix="vop-described-") as folder:
        builder = find_dataset(dataset).load()(
            data_dir=folder, finished=finished, written=written
        )
        # TFDS announces downloads, of which there are none, on standard output.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format="tfrecord")
        files = {x.name: x.read_bytes() for x in Path(builder.data_dir).iterdir()}
    files[REPORT] = json.dumps(finished.unclean, indent=1).encode()
    files[FILE] = json.dumps(finished.provenance, indent=1).encode()
    marker = files.pop(MARKER)
    for name, content in files.items():
        target.write(name, content)
    target.write(MARKER, marker)
