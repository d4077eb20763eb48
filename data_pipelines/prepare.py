"""Turns a data set's videos into training shards, once.

python -m data_pipelines.prepare --dataset=demo --output=data
"""

import contextlib
import io
import json
import os
from pathlib import Path

from etils import epath

from data_pipelines.arguments import Parser
from data_pipelines.datasets import DATASETS, find_dataset
from data_pipelines.errors import UserError, command
from data_pipelines.terminal import quiet_libraries, say


def prepared_path(
    dataset: str, output: epath.PathLike, num_frames: int, image_size: int
) -> epath.Path:
    """Where a data set's shards are or would be, one folder per kind of frames."""
    version = "1.0.0"
    return epath.Path(output) / f"{num_frames}x{image_size}" / dataset / version


def prepare(
    dataset: str,
    output: epath.PathLike,
    *,
    num_frames: int | None = None,
    image_size: int | None = None,
    allow_missing_test: bool = False,
) -> epath.Path:
    """Prepares a data set unless it is there already.

    The shards are written aside and renamed when all are whole, so what was broken off
    is never mistaken for a data set.

    Args:
        dataset: its name.
        output: folder for all prepared data sets.
        num_frames: F; None takes the data set's own.
        image_size: pixels; None takes the data set's own.
        allow_missing_test: whether unreadable test videos are left out and counted.

    Returns:
        The folder of the shards.
    """
    row = find_dataset(dataset)
    num_frames = num_frames or row.num_frames
    image_size = image_size or row.image_size
    path = prepared_path(dataset, output, num_frames, image_size)
    if path.is_dir():
        return path
    if not os.access(_existing_parent(path), os.W_OK):
        raise UserError(f"{path} cannot be written; give another --output")
    # Imported late, so that a typing mistake is answered without a wait.
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    builder = row.load()(
        data_dir=path.parents[1],
        num_frames=num_frames,
        image_size=image_size,
        allow_missing_test=allow_missing_test,
    )
    # TFDS announces downloads, of which there are none, on the standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(file_format="tfrecord")
    (path / "files.json").write_text(json.dumps(builder.unclean, indent=1))
    return path


def _existing_parent(path: epath.Path) -> epath.Path:
    return next(parent for parent in path.resolve().parents if parent.exists())


@command
def main() -> None:
    """Parses the flags and prepares."""
    parser = Parser("data_pipelines.prepare", __doc__)
    parser.add_argument(
        "--dataset", required=True, help=f"one of {', '.join(DATASETS)}"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--num_frames", type=int, help="frames of a video")
    parser.add_argument("--image_size", type=int, help="height and width, pixels")
    parser.add_argument(
        "--allow-missing-test",
        action="store_true",
        help="leave out test videos that cannot be read, and count them",
    )
    flags = parser.parse_args()
    quiet_libraries()
    path = prepare(
        flags.dataset,
        flags.output,
        num_frames=flags.num_frames,
        image_size=flags.image_size,
        allow_missing_test=flags.allow_missing_test,
    )
    say(f"prepared {flags.dataset} in {path}")


if __name__ == "__main__":
    main()
