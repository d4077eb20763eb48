"""Recalls of the demo trained and evaluated in float32 and in bfloat16, by seed.

    python -m benchmarks.dtype_recalls [--seeds=0,1,2] [--method=vop_fc] [--output=FILE]

Each run is the main job in a process of its own; one takes some minutes. The question
is whether the dtypes differ by more than the seeds of one dtype do.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import machine, publish

DTYPES = ("float32", "bfloat16")


def train(method: str, seed: int, dtype: str, folder: Path) -> dict[str, float]:
    """The recalls of a run, and the seconds of its training."""
    workdir = folder / f"{dtype}_{seed}"
    command = [sys.executable, "-m", "vop_jax.main"]
    command += [f"--config=configs/vop.py:method={method}", f"--workdir={workdir}"]
    command += [f"--config.seed={seed}", f"--config.compute.dtype={dtype}"]
    command += [f"--config.data_dir={folder / 'data'}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    results = json.loads((workdir / "results.json").read_text())
    if results["dtype"] != dtype:
        raise SystemExit(f"{workdir} was computed in {results['dtype']}")
    recalls = {f"{x} R@1": results[x]["R@1"] for x in ("t2v", "v2t")}
    return recalls | {"train CPU seconds": results["seconds"]["train"]["cpu_seconds"]}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--method", default="vop_fc")
    parser.add_argument("--output", type=Path)
    flags = parser.parse_args()
    seeds = [int(x) for x in flags.seeds.split(",")]
    runs: dict[str, list[dict[str, float]]] = {dtype: [] for dtype in DTYPES}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            for dtype in DTYPES:
                runs[dtype].append(train(flags.method, seed, dtype, Path(folder)))
                print(json.dumps({dtype: runs[dtype][-1], "seed": seed}), flush=True)
    report: dict[str, Any] = {"machine": machine(), "method": flags.method}
    report |= {"seeds": seeds, "runs": runs, "summary": {}}
    for name in runs["float32"][0]:
        of = {dtype: [run[name] for run in runs[dtype]] for dtype in DTYPES}
        report["summary"][name] = {
            dtype: {
                "mean": statistics.mean(values),
                "standard_deviation": statistics.stdev(values) if values[1:] else None,
            }
            for dtype, values in of.items()
        }
    publish(report, flags.output)


if __name__ == "__main__":
    main()
