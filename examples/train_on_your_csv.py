"""Trains prompts on your own videos and captions, and scores the result.

    python examples/train_on_your_csv.py --videos=VIDEOS --csv=rows.csv
        --backbone=vit_b32

These are the steps of `python -m vop_jax.train`, each by itself, with settings of your
own. The CSV has the columns `video` (a path below VIDEOS) and `caption`. Without
arguments a tiny data set is written and the demo's CLIP is trained on it for two
epochs, in `your_csv/` of the current folder.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "vop.py"
FOLDER = Path("your_csv")


def run(module: str, *arguments: str) -> None:
    """Runs a command as `python -m` does; a failure ends the example."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Prepares, trains and scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", help="folder of the videos (default: a tiny set)")
    parser.add_argument("--csv", help="the captions (default: those of the tiny set)")
    parser.add_argument(
        "--backbone", default="demo", help="a CLIP (default: the demo's)"
    )
    parser.add_argument("--epochs", type=int, default=2, help="passes (default: 2)")
    flags = parser.parse_args()
    videos, rows = flags.videos, flags.csv
    if (videos is None) != (rows is None):
        parser.error("give both --videos and --csv, or neither")
    if videos is None:
        run("data_pipelines.dummy", "--dataset=custom", f"--output={FOLDER / 'clips'}")
        videos, rows = f"{FOLDER}/clips/videos", f"{FOLDER}/clips/annotations"

    # What is missing or unreadable is listed before hours are spent on it.
    run(
        "data_pipelines.doctor",
        "--dataset=custom",
        f"--videos={videos}",
        f"--annotations={rows}",
    )

    # Frames are decoded once, at the size and number that the backbone takes.
    frames = ["--image_size=48", "--num_frames=8"] if flags.backbone == "demo" else []
    run(
        "data_pipelines.prepare",
        "--dataset=custom",
        f"--videos={videos}",
        f"--annotations={rows}",
        f"--output={FOLDER / 'data'}",
        *frames,
    )

    # The same command again resumes an interrupted run.
    small = ["--config.batch_size=4", "--config.num_frames=8"] if frames else []
    run(
        "vop_jax.main",
        f"--config={CONFIG}:method=vop_p,dataset=custom,backbone={flags.backbone}",
        f"--config.data_dir={FOLDER / 'data'}",
        f"--config.epochs={flags.epochs}",
        f"--workdir={FOLDER / 'run'}",
        *small,
    )
    results = json.loads((FOLDER / "run" / "results.json").read_text())
    print("t2v", results["t2v"])
    print(f"the run, its report and its tuned.safetensors are in {FOLDER / 'run'}")


if __name__ == "__main__":
    main()
