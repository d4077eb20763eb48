"""Writes the dummy annotations of a data set, with rendered clips as its videos.

    python -m data_pipelines.dummy --dataset=msrvtt_9k --output=DIR

writes DIR/annotations, in the published format with made-up captions, and DIR/videos.
`data_pipelines.doctor` and `data_pipelines.prepare` take both as they take real ones.
"""

import os
import shutil
import zlib
from pathlib import Path

from data_pipelines.catalog.table import DATASETS, Dataset, find_dataset
from data_pipelines.console.arguments import Parser, local_path
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.terminal import quiet_libraries, say

SIZE = 96


def dummy_folder(row: Dataset) -> Path:
    """The folder of a data set's dummy annotations."""
    return Path(__file__).parent / "datasets" / row.annotations.split(".")[2] / "dummy"


def write_dummy(dataset: str, output: Path) -> None:
    """Copies the annotations and renders a clip for each of their videos.

    Raises:
        UserError: there is no such data set, or it renders its own videos.
    """
    row = find_dataset(dataset)
    if row.rendered:
        raise UserError(f"{dataset} renders its own videos; run data_pipelines.prepare")
    # Imported late, so that a typo is reported at once.
    from data_pipelines.datasets.demo.clip import render_clip
    from data_pipelines.datasets.demo.video_file import write_video
    from data_pipelines.datasets.demo.world import sample_clips

    annotations, videos = output / "annotations", output / "videos"
    parent = next(x for x in (output, *output.absolute().parents) if os.path.exists(x))
    for folder in (parent, annotations, videos):
        if os.path.lexists(folder) and not os.path.isdir(folder):
            raise UserError(f"{folder} is not a folder; use another --output")
    if not os.access(parent, os.W_OK):
        raise UserError(f"{parent} cannot be written; use another --output")
    shutil.copytree(dummy_folder(row), annotations, dirs_exist_ok=True)
    videos.mkdir(parents=True, exist_ok=True)
    clips = sample_clips()["train"]
    found = row.read(annotations)
    for split in found.splits.values():
        for video in split:
            name = video.files[-1] if found.by_path else f"{video.files[-1]}.mp4"
            path = videos / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # The dummy's captions were taken from the clips by the same hash.
            clip = clips[zlib.crc32(video.video_id.encode()) % len(clips)]
            if not path.exists():
                write_video(path, render_clip(clip, SIZE))


@command
def main() -> None:
    """Parses the flags and writes the files."""
    parser = Parser("data_pipelines.dummy", __doc__)
    own = [name for name, row in DATASETS.items() if not row.rendered]
    parser.add_argument("--dataset", required=True, help=f"one of {', '.join(own)}")
    parser.add_argument(
        "--output", type=local_path, required=True, help="folder to write to"
    )
    flags = parser.parse_args()
    quiet_libraries()
    write_dummy(flags.dataset, flags.output)
    say(f"annotations and videos of {flags.dataset} in {flags.output}")


if __name__ == "__main__":
    main()
