"""Similarity and ranks of many texts with many videos, without holding the matrix.

    python -m benchmarks.similarity [--sizes=10000,100000] [--output=FILE]

Random unit features of 512 numbers, as many texts as videos, both directions.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from benchmarks.report import machine, publish
from vop_jax.scoring.metrics import retrieval_metrics
from vop_jax.scoring.similarity import Similarity

EMBEDDING = 512


def measure(size: int) -> dict[str, float]:
    """Seconds and memory for one size."""
    rng = np.random.default_rng(0)
    videos = rng.standard_normal((size, EMBEDDING), np.float32)
    texts = videos + 4 * rng.standard_normal((size, EMBEDDING), np.float32)
    for features in (videos, texts):
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    before = time.perf_counter(), time.process_time()
    figures = retrieval_metrics(Similarity(texts, videos))
    wall, cpu = time.perf_counter() - before[0], time.process_time() - before[1]
    return {
        "size": size,
        "wall_seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "gflop": 2 * 2 * size**2 * EMBEDDING / 1e9,
        "matrix_bytes": 4 * size**2,
        "peak_process_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "t2v_R@1": figures["t2v"]["R@1"],
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,100000")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    report = {
        "machine": machine(),
        "versions": {"numpy": np.__version__},
        "sizes": [measure(int(size)) for size in given.sizes.split(",")],
    }
    publish(report, given.output)


if __name__ == "__main__":
    main()
