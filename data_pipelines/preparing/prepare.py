"""Prepares a data set: videos to TFRecord shards, once."""

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from data_pipelines.catalog.table import Dataset, find_dataset
from data_pipelines.console.errors import UserError
from data_pipelines.console.names import pick
from data_pipelines.decoding.beam_jobs import run_on
from data_pipelines.decoding.resizing import CLIP_RESIZING, FILTERS, RESIZES, Resizing
from data_pipelines.decoding.workers import Workers
from data_pipelines.files.json_files import LARGEST_ANNOTATIONS, read_described
from data_pipelines.files.locks import exclusive
from data_pipelines.files.stores import Store, fetched, in_store
from data_pipelines.preparing.at_scale import (
    MARKER,
    REPORT,
    Places,
    prepare_by_parts,
    run_here,
)
from data_pipelines.preparing.decode_all import Finished, Limits, finish
from data_pipelines.preparing.provenance import (
    FILE,
    annotation_hashes,
    pixel_aspect_of,
    read_provenance,
)
from data_pipelines.preparing.shard_files import Report, check_frame_sizes

VERSION = "1.0.0"


def prepared_path(
    dataset: str,
    output: epath.PathLike,
    num_frames: int,
    image_size: int,
    resizing: Resizing = CLIP_RESIZING,
) -> epath.Path:
    """The folder of a data set's shards, one for each F, image size and resizing."""
    frames = f"{num_frames}x{image_size}{resizing.suffix}"
    return epath.Path(output) / frames / dataset / VERSION


def prepare(
    dataset: str,
    output: str | Path,
    *,
    videos: str | Path | None = None,
    annotations: str | Path | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    resizing: Resizing = CLIP_RESIZING,
    allow_missing_test: bool = False,
    workers: int | None = None,
    seconds: float = 120.0,
    max_megabytes: int = 4096,
    ignore_pixel_aspect: bool = False,
    films: str = "",
    runner: str | None = None,
    runner_flags: Sequence[str] = (),
) -> "Path | epath.Path":
    """Prepares a data set unless it is prepared already.

    The shards are written to a temporary folder that is renamed once all are complete,
    so an interrupted preparation is never mistaken for a data set; in an object store
    a file that is written last says so. The next attempt reuses the videos that it has
    decoded.

    Args:
        dataset: its name.
        output: folder for all prepared data sets, here or in an object store.
        videos: folder of the videos, here or in an object store.
        annotations: folder of the annotation files, or the one file of `custom`; here
            or in an object store.
        num_frames: F; None uses the data set's own.
        image_size: height and width, pixels; None uses the data set's own.
        resizing: how frames are made square, as the model wants them.
        allow_missing_test: whether test and validation videos without decodable frames
            are left out and counted.
        workers: decoding processes; by default one per core, or with a runner one for
            each part that it has in progress.
        seconds: time limit per file.
        max_megabytes: size limit per file.
        ignore_pixel_aspect: whether non-square pixels count as square, as in loaders
            that do not stretch them.
        films: recognises the content of the videos, and is kept in the provenance, so
            that shards of other ones are refused; empty if it is not known.
        runner: Apache Beam runner that decodes and writes shards.
        runner_flags: Beam's own flags.

    Returns:
        The folder of the shards.

    Raises:
        UserError: an input is missing or invalid, or the output cannot be written.
    """
    row = find_dataset(dataset)
    num_frames = num_frames or row.num_frames
    image_size = image_size or row.image_size
    check_frame_sizes(num_frames, image_size)
    pick(RESIZES, resizing.resize, "resizing")
    pick(dict.fromkeys(FILTERS), resizing.filter, "filter")
    remote = in_store(str(output), "--output")
    far = videos is not None and in_store(str(videos), "--videos")
    if annotations is not None:
        in_store(str(annotations), "--annotations")
    path = prepared_path(dataset, output, num_frames, image_size, resizing)
    if not remote:
        path = Path(path)
    with contextlib.ExitStack() as stack:
        if row.rendered:
            videos = annotations = _rendered_into(dataset, output, remote, stack)
        # Prepared already: only check that it was prepared in the same way.
        if is_prepared(path):
            with readable(path) as there:
                _check_same_pixel_aspect(path, there, ignore_pixel_aspect)
                if annotations is not None and not row.rendered:
                    _check_same_annotations(dataset, path, there, annotations)
                _check_same_films(path, there, films)
            return path
        # Report what is missing before any work.
        if videos is None or annotations is None:
            raise UserError(
                f"{dataset} is made of your files: pass --videos and --annotations"
            )
        if isinstance(path, Path):
            _check_writable(path)
        run = run_on(runner, runner_flags) if runner else run_here
        limits = Limits(allow_missing_test, max_megabytes << 20, ignore_pixel_aspect)
        origin = {"films": films} if films else {}
        sizes: dict[str, Any] = {
            "num_frames": num_frames,
            "image_size": image_size,
            "resizing": resizing,
            "limits": limits,
        }
        partial = path.parents[1] / f".{dataset}.partial"
        if isinstance(partial, Path):
            stack.enter_context(_alone(partial, wait=row.rendered))
            # Another process may have prepared it while this one waited.
            if is_prepared(path):
                with readable(path) as there:
                    _check_same_films(path, there, films)
                return path
        if row.rendered:
            # Preparations with another F or image size render the same videos.
            stack.enter_context(_alone(Path(videos), wait=True))
        if runner or remote or far:
            whole = path if remote else partial / "joined"
            target, work = Store(whole), Store(partial)
            with fetched(annotations) as texts:
                prepare_by_parts(
                    dataset,
                    found=row.read(texts),
                    videos=videos,
                    places=Places(work, target),
                    # A runner has as many parts in progress as it has threads.
                    workers=workers or (1 if runner else None),
                    seconds=seconds,
                    run=run,
                    origin=origin,
                    **sizes,
                )
        else:
            with fetched(annotations) as texts:
                finished = finish(
                    dataset,
                    videos=Path(videos),
                    annotations=texts,
                    work_dir=Path(partial) / "frames",
                    run_jobs=Workers(workers, seconds).run,
                    **sizes,
                )
            finished.provenance.update(origin)
            whole = _write_here(row, finished, Path(partial))
        if remote:
            work = Store(partial)
            work.remove("")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(whole, path)
            shutil.rmtree(partial)
    return path


def _rendered_into(
    dataset: str, output: str | os.PathLike, remote: bool, stack: contextlib.ExitStack
) -> Path:
    """Where a data set renders its videos: beside its shards, if that is here."""
    if not remote:
        return Path(output) / "videos" / dataset
    return Path(stack.enter_context(tempfile.TemporaryDirectory())) / dataset


def _check_writable(path: Path) -> None:
    if not os.access(_existing_parent(path), os.W_OK):
        raise UserError(f"{path} cannot be written; use another --output")
    try:
        str(path).encode()
    # TFDS stores the path as text.
    except UnicodeEncodeError:
        raise UserError(f"{path} is not UTF-8; use another --output") from None


def _write_here(row: Dataset, finished: Finished, partial: Path) -> Path:
    """Writes the shards of decoded videos and the files beside them."""
    # Imported late: it takes seconds, and much memory during the decoding.
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    # Shards of an interrupted run are written again, which is quick.
    shutil.rmtree(partial / "shards", ignore_errors=True)
    builder = row.load()(data_dir=partial / "shards", finished=finished)
    # TFDS announces downloads, of which there are none, on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(file_format="tfrecord")
    # Add provenance and report before the complete folder is moved into place.
    whole = Path(builder.data_dir)
    for name, content in ((REPORT, finished.unclean), (FILE, finished.provenance)):
        (whole / name).write_text(json.dumps(content, indent=1))
    return whole


def is_prepared(path: "Path | epath.Path") -> bool:
    """Whether a folder is a complete data set.

    A local folder is moved into place when it is complete. In an object store shards
    are written where they belong, and the file that is written last says that all are
    there.

    Raises:
        UserError: the object store cannot be used.
    """
    if isinstance(path, Path) and "://" not in str(path):
        return path.is_dir()
    # Of a listing, which, unlike a look at one file, tells a bucket that is missing.
    return MARKER in Store(path).files()


@contextlib.contextmanager
def readable(path: "Path | epath.Path") -> Iterator[Path]:
    """The files that say what shards are, on this machine.

    Args:
        path: the folder of the shards.
    """
    if "://" not in str(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="vop-described-") as folder:
        for name in (FILE, REPORT):
            with contextlib.suppress(FileNotFoundError):
                Store(path).fetch(name, Path(folder) / name)
        yield Path(folder)


def _alone(folder: Path, wait: bool) -> contextlib.AbstractContextManager[None]:
    """Excludes a second preparation of the same files, or makes it wait."""
    return exclusive(
        folder / "lock",
        folder,
        doing="is being worked on",
        advice="use another --output",
        wait=wait,
    )


def _check_same_annotations(
    dataset: str,
    path: "Path | epath.Path",
    there: Path,
    annotations: "str | os.PathLike[str]",
) -> None:
    """Refuses existing shards that were prepared from other annotations.

    Args:
        dataset: its name.
        path: of the shards.
        there: a folder of this machine that has their provenance.
        annotations: those that are given now.
    """
    kept = read_provenance(there).get("annotations")
    with fetched(annotations) as texts:
        hashes = annotation_hashes(find_dataset(dataset).read(texts).files)
    if kept is not None and kept != hashes:
        raise UserError(
            f"{path} was prepared from other annotation files; remove it, or use "
            "another --output"
        )


def _check_same_films(path: "Path | epath.Path", there: Path, films: str) -> None:
    """Refuses existing shards that were prepared from other videos, or nobody knows."""
    if films and read_provenance(there).get("films") != films:
        raise UserError(
            f"{path} was prepared from other videos; remove it, or use another --output"
        )


def _check_same_pixel_aspect(
    path: "Path | epath.Path", there: Path, ignored: bool
) -> None:
    """Refuses existing shards with the other treatment of non-square pixels."""
    kept = read_provenance(there).get("pixel_aspect")
    if kept is not None and kept != pixel_aspect_of(ignored):
        change = "without" if ignored else "with"
        raise UserError(
            f"{path} was prepared {change} --ignore_pixel_aspect; remove it, or use "
            "another --output"
        )


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.resolve().parents if parent.exists())


def report_lines(path: "Path | epath.Path") -> list[str]:
    """A summary of prepared shards: counts, and files with problems."""
    lines = []
    with readable(path) as there:
        unclean = read_described(there / REPORT, Report, LARGEST_ANNOTATIONS)
        splits = read_provenance(there).get("splits", {})
    for split, about in splits.items():
        counts: dict[str, int] = {}
        for line in unclean.get(split, []):
            counts[line["status"]] = counts.get(line["status"], 0) + 1
        said = "".join(f", {count} {status}" for status, count in counts.items())
        lines.append(
            f"{split}: {about['videos']:,} videos, {about['captions']:,} captions, "
            f"{about['left_out']:,} left out{said}"
        )
    if any(unclean.values()):
        lines.append(f"files with problems or notes: {path / REPORT}")
    return lines
