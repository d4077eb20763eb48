"""Turns a data set's videos into training shards, once.

    python -m data_pipelines.prepare --dataset=msrvtt_9k --videos=VIDEOS
        --annotations=FILES --output=data

Broken off, the same command goes on where it was, and the result is the same, byte for
byte. With Apache Beam the decoding runs on other machines, which must see the videos
and the output under the same paths, on a shared file system. Flags that this command
does not know are Beam's:

    ... --runner=FlinkRunner --flink_master=HOST:8081 --parallelism=64
        --environment_type=EXTERNAL --environment_config=localhost:50000
    ... --runner=DataflowRunner --project=P --region=R --temp_location=gs://B/tmp
        --sdk_container_image=IMAGE
"""

import contextlib
import fcntl
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from etils import epath

from data_pipelines.arguments import Parser, check_positive
from data_pipelines.beam_jobs import run_jobs_on
from data_pipelines.datasets import DATASETS, find_dataset
from data_pipelines.errors import UserError, command
from data_pipelines.finish import Limits, finish
from data_pipelines.provenance import FILE, annotation_hashes, read_provenance
from data_pipelines.terminal import quiet_libraries, say
from data_pipelines.workers import Workers

VERSION = "1.0.0"
REPORT = "files.json"


def prepared_path(
    dataset: str, output: epath.PathLike, num_frames: int, image_size: int
) -> epath.Path:
    """Where a data set's shards are or would be, one folder per kind of frames."""
    return epath.Path(output) / f"{num_frames}x{image_size}" / dataset / VERSION


def prepare(
    dataset: str,
    output: str | Path,
    *,
    videos: str | Path | None = None,
    annotations: str | Path | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    allow_missing_test: bool = False,
    workers: int | None = None,
    seconds: float = 120.0,
    max_megabytes: int = 4096,
    runner: str | None = None,
    runner_flags: Sequence[str] = (),
) -> Path:
    """Prepares a data set unless it is there already.

    The shards are written aside and renamed when all are whole, so what was broken off
    is never mistaken for a data set. What was finished of it is used the next time.

    Args:
        dataset: its name.
        output: folder for all prepared data sets.
        videos: folder of the videos.
        annotations: folder of the annotation files, or the one file of `custom`.
        num_frames: F; None takes the data set's own.
        image_size: pixels; None takes the data set's own.
        allow_missing_test: whether videos of the test and validation splits that give
            no frames are left out and counted.
        workers: decoding processes; one for each core by default.
        seconds: what one file may take.
        max_megabytes: what one file may have.
        runner: of Apache Beam, to decode on other machines.
        runner_flags: Beam's own flags.

    Returns:
        The folder of the shards.

    Raises:
        UserError: something is missing, broken or in the way.
    """
    row = find_dataset(dataset)
    num_frames = num_frames or row.num_frames
    image_size = image_size or row.image_size
    if "://" in str(output):
        raise UserError(
            f"--output={output} is no local folder; prepare into one and copy it"
        )
    path = Path(prepared_path(dataset, output, num_frames, image_size))
    if row.rendered:
        videos = annotations = Path(output) / "videos" / dataset
    if path.is_dir():
        if annotations is not None and not row.rendered:
            _check_same_annotations(dataset, path, Path(annotations))
        return path
    if videos is None or annotations is None:
        raise UserError(
            f"{dataset} is made of your files: give --videos and --annotations"
        )
    if not os.access(_existing_parent(path), os.W_OK):
        raise UserError(f"{path} cannot be written; give another --output")
    run_jobs = Workers(workers, seconds).run
    if runner:
        run_jobs = run_jobs_on(runner, runner_flags, seconds)
    partial = path.parents[1] / f".{dataset}.partial"
    with _alone(partial):
        finished = finish(
            dataset,
            videos=Path(videos),
            annotations=Path(annotations),
            work_dir=partial / "frames",
            num_frames=num_frames,
            image_size=image_size,
            limits=Limits(allow_missing_test, max_megabytes << 20),
            run_jobs=run_jobs,
        )
        # Imported late: it takes seconds, and much memory beside the decoding.
        import tensorflow_datasets as tfds

        tfds.disable_progress_bar()
        # What TFDS was at when it was broken off it does again; that is quickly done.
        shutil.rmtree(partial / "shards", ignore_errors=True)
        builder = row.load()(data_dir=partial / "shards", finished=finished)
        # TFDS announces downloads, of which there are none, on the standard output.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format="tfrecord")
        whole = Path(builder.data_dir)
        for name, content in (
            (REPORT, finished.unclean),
            (FILE, finished.provenance),
        ):
            (whole / name).write_text(json.dumps(content, indent=1))
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(whole, path)
        shutil.rmtree(partial)
    return path


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second preparation of the same shards out."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder} is being worked on by another process; wait for it"
            ) from None
        yield


def _check_same_annotations(dataset: str, path: Path, annotations: Path) -> None:
    """Says so if the shards that are there are of other annotations."""
    kept = read_provenance(path).get("annotations")
    files = find_dataset(dataset).read(annotations).files
    if kept is not None and kept != annotation_hashes(files):
        raise UserError(
            f"{path} was prepared from other annotation files; remove it, or give "
            "another --output"
        )


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.resolve().parents if parent.exists())


def report_lines(path: Path) -> list[str]:
    """What there is to say of prepared shards: counts, and files not clean."""
    lines = []
    unclean = json.loads((path / REPORT).read_text())
    for split, about in read_provenance(path)["splits"].items():
        counts: dict[str, int] = {}
        for line in unclean.get(split, []):
            counts[line["status"]] = counts.get(line["status"], 0) + 1
        said = "".join(f", {count} {status}" for status, count in counts.items())
        lines.append(
            f"{split}: {about['videos']:,} videos, {about['captions']:,} captions, "
            f"{about['left_out']:,} left out{said}"
        )
    if any(unclean.values()):
        lines.append(f"files that were not clean: {path / REPORT}")
    return lines


@command
def main() -> None:
    """Parses the flags and prepares."""
    parser = Parser("data_pipelines.prepare", __doc__)
    add = parser.add_argument
    add("--dataset", required=True, help=f"one of {', '.join(DATASETS)}")
    add("--videos", type=Path, help="folder of the videos")
    add("--annotations", type=Path, help="folder of the annotation files, or the file")
    add("--output", type=Path, required=True, help="folder to write to")
    add("--num_frames", type=int, help="frames of a video")
    add("--image_size", type=int, help="height and width, pixels")
    add("--workers", type=int, help="decoding processes; one for each core")
    add("--seconds", type=float, default=120.0, help="what one file may take")
    add("--max_megabytes", type=int, default=4096, help="what one file may have")
    add(
        *("--allow-missing-test", "--allow_missing_test"),
        action="store_true",
        help="leave out test and validation videos that cannot be read, and count them",
    )
    add("--runner", help="Apache Beam's runner, to decode on other machines")
    flags, others = parser.parse_known_args()
    if others and not flags.runner:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    check_positive(
        flags, "num_frames", "image_size", "workers", "seconds", "max_megabytes"
    )
    quiet_libraries()
    path = prepare(
        flags.dataset,
        flags.output,
        videos=flags.videos,
        annotations=flags.annotations,
        num_frames=flags.num_frames,
        image_size=flags.image_size,
        allow_missing_test=flags.allow_missing_test,
        workers=flags.workers,
        seconds=flags.seconds,
        max_megabytes=flags.max_megabytes,
        runner=flags.runner,
        runner_flags=others,
    )
    for line in report_lines(path):
        say(line)
    say(f"prepared {flags.dataset} in {path}")


if __name__ == "__main__":
    try:
        main()
    # Broken off by a key: what is finished stays, and a traceback says nothing more.
    except KeyboardInterrupt:
        print("broken off; the same command goes on", file=sys.stderr)
        sys.exit(130)
