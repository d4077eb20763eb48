"""Converts a data set's videos into training shards, once.

    python -m data_pipelines.prepare --dataset=msrvtt_9k --videos=VIDEOS
        --annotations=FILES --output=data

If it is interrupted, the same command resumes, and the result is the same byte for
byte. Every place may be in an object store, gs://BUCKET/... or s3://BUCKET/.... With
--runner the pipeline of Apache Beam decodes the videos and writes the shards on other
machines, which see what they are given: an object store, or a shared file system under
the same paths. Unknown flags are passed on to Beam:

    ... --runner=DirectRunner --direct_num_workers=8
        --direct_running_mode=multi_processing
    ... --runner=DaskRunner --dask_client_address=tcp://HOST:8786
    ... --runner=DataflowRunner --project=P --region=R --temp_location=gs://B/tmp
        --sdk_container_image=IMAGE
"""

import argparse
import importlib
from typing import Any

from data_pipelines.catalog.table import DATASETS
from data_pipelines.console.arguments import Parser, place, store_path
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.ranges import number
from data_pipelines.console.terminal import quiet_libraries, say
from data_pipelines.decoding.resizing import CLIP_RESIZING, FILTERS, RESIZES, Resizing
from data_pipelines.preparing.limits import FRAMES, SIDES, add_limits

# The flags that say how frames are made.
_FRAMES = ("image_size", "resize", "filter")


@command
def main() -> None:
    """Parses the flags and prepares the data set."""
    parser = Parser("data_pipelines.prepare", __doc__)
    add = parser.add_argument
    add("--dataset", required=True, help=f"one of {', '.join(DATASETS)}")
    files = "(default: none; needed for all but demo)"
    add("--videos", type=store_path, help=f"folder of the videos {files}")
    add(
        "--annotations",
        type=store_path,
        help=f"folder of the annotation files, or the file {files}",
    )
    add("--output", type=store_path, required=True, help="folder to write to")
    own = "(default: the data set's own, {})".format
    add(
        "--num_frames",
        type=number(int, FRAMES),
        help=f"frames of a video {own('12, or 8 of demo')}",
    )
    add(
        "--image_size",
        type=number(int, SIDES),
        help=f"height and width, pixels {own('224, or 48 of demo')}",
    )
    add(
        "--backbone",
        type=place,
        help="folder or name of the model that the frames are for, which says their "
        "size, resizing and filter (default: none, and OpenAI's CLIP's)",
    )
    add(
        "--resize",
        choices=tuple(RESIZES),
        help="whether the centre of a frame is cropped, or all of it squashed to a "
        "square (default: crop)",
    )
    add(
        "--filter",
        choices=tuple(FILTERS),
        help="of the resizing, antialiased (default: bicubic)",
    )
    add_limits(add)
    add(
        "--allow_missing_test",
        action="store_true",
        help="leave out test and validation videos that cannot be read, and count them",
    )
    add(
        "--ignore_pixel_aspect",
        action="store_true",
        help="treat non-square pixels as square, instead of stretching them",
    )
    add(
        "--runner",
        help="Apache Beam runner that writes the shards (default: this process)",
    )
    flags, others = parser.parse_known_args()
    if not flags.runner:
        parser.refuse(others)
    quiet_libraries()
    # Imported late, so that the help and a typing mistake are answered without a wait.
    from data_pipelines.preparing.prepare import prepare, report_lines

    image_size, resizing = _frames_of(flags)
    path = prepare(
        flags.dataset,
        flags.output,
        videos=flags.videos,
        annotations=flags.annotations,
        num_frames=flags.num_frames,
        image_size=image_size,
        resizing=resizing,
        allow_missing_test=flags.allow_missing_test,
        workers=flags.workers,
        seconds=flags.seconds,
        max_megabytes=flags.max_megabytes,
        ignore_pixel_aspect=flags.ignore_pixel_aspect,
        runner=flags.runner,
        runner_flags=others,
    )
    for line in report_lines(path):
        say(line)
    say(f"prepared {flags.dataset} in {path}")


def _frames_of(flags: argparse.Namespace) -> tuple[int | None, Resizing]:
    """The image size, None for the data set's own, and the resizing.

    Raises:
        UserError: the flags state other frames than the backbone wants.
    """
    asked = flags.image_size, flags.resize, flags.filter
    wanted: tuple[Any, ...] = None, *CLIP_RESIZING
    if flags.backbone:
        # By name: nothing here imports the packages of the model.
        models = importlib.import_module("vop_jax.weights.frame_recipes")
        wanted = models.prepared_frames(flags.backbone)
        for name, given, own in zip(_FRAMES, asked, wanted, strict=True):
            if given not in (None, own):
                raise UserError(
                    f"--{name}={given}, but {flags.backbone} wants {own}; leave "
                    f"--{name} out, or use another --backbone"
                )
    size, *resizing = (
        own if given is None else given
        for given, own in zip(asked, wanted, strict=True)
    )
    return size, Resizing(*resizing)


if __name__ == "__main__":
    main()
