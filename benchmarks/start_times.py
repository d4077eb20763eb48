"""How long commands take to answer: `import vop_jax`, every --help, a warm query.

    python -m benchmarks.start_times [--rounds=5] [--baseline=CHECKOUT] [--output=FILE]

Every round runs every command once, so that a busy minute of the machine falls on all;
the medians of the rounds are printed, wall and processor seconds. A baseline is another
checkout of the project, whose commands run in turn with this one's.

The queries ask an index of six rendered clips, once with the demo's model and once with
a ViT-B/32 of random weights, after a first query has filled the cache of compiled
programs.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.random_clip import write_random_clip
from benchmarks.report import machine, publish
from data_pipelines.datasets.demo.clip import render_clip
from data_pipelines.datasets.demo.video_file import write_video
from data_pipelines.datasets.demo.world import sample_clips
from vop_jax.model.clip.families import SIZES

ROOT = Path(__file__).parents[1]
# Most wall seconds on an idle machine.
BARS = {"import vop_jax": 0.2, "search query": 2.5, "search query, ViT-B/32": 4.0}
HELP_BAR = 0.6
_MODULES = (
    *("vop_jax", "vop_jax.main", "vop_jax.evaluate", "vop_jax.search"),
    *("vop_jax.search index", "vop_jax.search query", "vop_jax.search serve"),
    *("vop_jax.convert", "vop_jax.parameters", "vop_jax.ablate", "vop_jax.pod_plan"),
    *("vop_jax.demo.pretrain", "data_pipelines.prepare", "data_pipelines.doctor"),
    "data_pipelines.dummy",
)
_QUERY = "a red circle moves"
# Name of a query -> the index that it asks.
_INDEXES = {"search query": "demo.index", "search query, ViT-B/32": "vit_b32.index"}


def commands(folder: Path) -> dict[str, list[str]]:
    """Name -> arguments of Python; the indexes are in a folder."""
    helps = {f"{x} --help": ["-m", *x.split(), "--help"] for x in _MODULES}
    queries = {
        name: ["-m", "vop_jax.search", "query", f"--index={folder / index}", _QUERY]
        for name, index in _INDEXES.items()
    }
    return {"import vop_jax": ["-c", "import vop_jax"], **helps, **queries}


def run(arguments: list[str], root: Path, cache: Path) -> tuple[float, float]:
    """Wall and processor seconds of one run of Python in a checkout."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return wall, user + system


def write_clips(folder: Path) -> None:
    """Six rendered clips of the demo."""
    folder.mkdir()
    for i, clip in enumerate(sample_clips()["test"][:6]):
        write_video(folder / f"{i}.mp4", render_clip(clip, 96))


def measure(roots: dict[str, Path], rounds: int) -> dict[str, Any]:
    """Medians by checkout and command."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_clips(work / "clips")
        write_random_clip(work / "vit_b32", SIZES["vit_b32"])
        models = {"demo.index": "demo", "vit_b32.index": f"{work / 'vit_b32'}"}
        asked = {side: commands(work / side) for side in roots}
        taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for side, root in roots.items():
            made = ["-m", "vop_jax.search", "index", f"--videos={work / 'clips'}"]
            for index, model in models.items():
                output = f"--output={work / side / index}"
                run([*made, f"--checkpoint={model}", output], root, work / side)
        # The first round is not counted: it fills the caches of disk and programs.
        for count in range(rounds + 1):
            for command in commands(work):
                for side, root in roots.items():
                    seconds = run(asked[side][command], root, work / side)
                    if count:
                        taken.setdefault((side, command), []).append(seconds)
    found: dict[str, Any] = {side: {} for side in roots}
    for (side, command), all_seconds in taken.items():
        wall, cpu = (statistics.median(x) for x in zip(*all_seconds, strict=True))
        found[side][command] = {
            "wall_seconds": round(wall, 3),
            "cpu_seconds": round(cpu, 3),
            "bar_wall_seconds": BARS.get(command, HELP_BAR),
        }
    return found


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    roots = {"this": ROOT}
    if given.baseline:
        roots["baseline"] = given.baseline.absolute()
    report = {"machine": machine(), "rounds": given.rounds}
    publish(report | measure(roots, given.rounds), given.output)


if __name__ == "__main__":
    main()
