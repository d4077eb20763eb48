"""Training on films and a CSV with one command: seconds of each part, and the result.

    python -m benchmarks.own_data [--films=60] [--backbone=demo] [--output=FOLDER]
        [--json=FILE]

The films are single events of the demo's world, each slowed down to eight seconds, in
the containers and codecs of `benchmarks.moments` in turns; each has two captions. What
the command prints is printed as it comes.
"""

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.moments import CODECS, scene_of, write_film
from benchmarks.report import machine, publish
from data_pipelines.console.arguments import Parser, local_path, place
from data_pipelines.console.errors import command
from data_pipelines.console.ranges import Range, number
from data_pipelines.console.terminal import progress, quiet_libraries
from data_pipelines.datasets.demo.clip import captions_of
from data_pipelines.datasets.demo.world import GROUP, sample_clips
from vop_jax.runtime.run_folder import RunFolder

CAPTIONS = 2


def write_own_data(folder: Path, count: int) -> tuple[Path, Path]:
    """Writes films and their captions; returns the folder of the films and the CSV."""
    videos, table = folder / "films", folder / "captions.csv"
    videos.mkdir(parents=True, exist_ok=True)
    # One of each group, whose four clips look alike but for the order of their frames.
    clips = sample_clips()["train"][::GROUP][:count]
    rows = []
    with progress("writing", total=count, unit="films") as bar:
        for place_, clip in enumerate(clips):
            codec = place_ % len(CODECS)
            name = f"film{place_:03}.{CODECS[codec][0]}"
            if not (videos / name).exists():
                write_film(videos / name, codec, [scene_of(clip)])
            rows += [(name, caption) for caption in captions_of(clip)[:CAPTIONS]]
            bar.advance()
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("video", "caption"), *rows])
    return videos, table


@command
def main() -> None:
    """Runs the benchmark."""
    parser = Parser("benchmarks.own_data", __doc__)
    add = parser.add_argument
    most = len(sample_clips()["train"]) // GROUP
    add("--films", type=number(int, Range(6, most)), default=60, help="number of films")
    add("--backbone", type=place, default="demo", help="that is tuned")
    add("--output", type=local_path, help="folder to keep (default: a temporary one)")
    add("--json", type=local_path, help="file for the result (default: not written)")
    flags = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.output or Path(temporary)
        videos, table = write_own_data(folder, flags.films)
        seconds = []
        # The second time the same command only tells what there is.
        for _ in range(2):
            before = time.perf_counter()
            subprocess.run(
                [
                    *(sys.executable, "-m", "vop_jax.train", f"--videos={videos}"),
                    *(f"--captions={table}", f"--backbone={flags.backbone}"),
                    f"--output={folder / 'run'}",
                ],
                check=True,
            )
            seconds.append(round(time.perf_counter() - before, 1))
        results = RunFolder(folder / "run").read_results()
    kept = ("t2v", "v2t", "intervals", "against_untuned", "seconds")
    report = {
        "machine": machine(),
        "films": flags.films,
        "seconds": dict(zip(("first", "again"), seconds, strict=True)),
        **{f"results {name}": results[name] for name in kept},
    }
    publish(report, flags.json)


if __name__ == "__main__":
    main()
