"""Time and memory of `evaluate --similarity`, of this checkout and of another one.

    python -m benchmarks.scoring [--other=FOLDER] [--size=10000] [--rounds=5]
        [--output=FILE]

Random unit features of 512 numbers, as many texts as videos. Each measurement is a
process of its own, the checkouts in turn: wall and CPU seconds and peak memory of the
complete command, with all tie policies and 1,000 bootstrap samples (`--json`), without
and with corrections for hubs. Medians; the outputs must be equal.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.report import machine, publish

EMBEDDING = 512
BANK = 1000
ROOT = Path(__file__).parents[1]


def write_matrices(folder: Path, size: int) -> dict[str, list[str]]:
    """Writes a similarity and a bank; returns the flags of each case."""
    rng = np.random.default_rng(0)
    videos = rng.standard_normal((size, EMBEDDING), np.float32)
    texts = videos + 4 * rng.standard_normal((size, EMBEDDING), np.float32)
    bank = rng.standard_normal((BANK, EMBEDDING), np.float32)
    for features in (videos, texts, bank):
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.save(folder / "similarity.npy", texts @ videos.T)
    np.save(folder / "bank.npy", bank @ videos.T)
    plain = [f"--similarity={folder / 'similarity.npy'}"]
    hubs = ["--dsl_temperature=0.01", f"--bank={folder / 'bank.npy'}"]
    return {"plain": plain, "corrected for hubs": plain + hubs}


def measure(checkout: Path, flags: list[str], output: Path) -> dict[str, float]:
    """One evaluation in a fresh process."""
    command = [sys.executable, "-m", "vop_jax.evaluate", *flags, f"--json={output}"]
    before = time.perf_counter()
    with subprocess.Popen(command, cwd=checkout, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} in {checkout} ended with {process.returncode}")
    return {
        "wall_seconds": time.perf_counter() - before,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_process_bytes": 1024 * usage.ru_maxrss,
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    checkouts = {"this": ROOT} | ({"other": given.other} if given.other else {})
    report = {
        "machine": machine(),
        "versions": {"numpy": np.__version__},
        "size": given.size,
        "rounds": given.rounds,
    }
    with tempfile.TemporaryDirectory() as place:
        for case, flags in write_matrices(Path(place), given.size).items():
            taken = {name: [] for name in checkouts}
            results = {}
            for _ in range(given.rounds):
                for name, checkout in checkouts.items():
                    output = Path(place, f"{name}.json")
                    taken[name].append(measure(checkout, flags, output))
                    results[name] = json.loads(output.read_text())
            if any(found != results["this"] for found in results.values()):
                raise SystemExit(f"{case}: the checkouts have different results")
            report[case] = {
                name: {
                    key: round(statistics.median(x[key] for x in found), 2)
                    for key in found[0]
                }
                for name, found in taken.items()
            }
    publish(report, given.output)


if __name__ == "__main__":
    main()
