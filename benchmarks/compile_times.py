"""Compile time of the train step on a CPU, cold and from the compilation cache.

    python -m benchmarks.compile_times [--size=vit_b32] [--output=FILE]

Each measurement has its own process: tracing, lowering and compiling the train step of
base VoP (32 videos of 12 frames), with layers in a `lax.scan` and unrolled.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from benchmarks.report import machine, publish


def work(size: str, scan: bool) -> None:
    """Compiles once and prints the seconds."""
    from vop_jax.runtime.startup import keep_programs

    keep_programs()
    import jax

    from vop_jax.devices.config import MeshConfig
    from vop_jax.devices.mesh import make_mesh
    from vop_jax.model.clip.families import SIZES
    from vop_jax.plan.programs import RunPrograms
    from vop_jax.training.config import check_config, default_values

    values = default_values("vop", backbone=size)
    values["num_frames"] = 12
    values["compute"]["scan"] = scan
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    programs = RunPrograms(check_config(values), SIZES[size], mesh, caption_tokens=32)
    before = time.perf_counter(), time.process_time()
    programs.train_step(32)
    wall, cpu = time.perf_counter() - before[0], time.process_time() - before[1]
    print(json.dumps({"wall_seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}))


def measure(size: str, scan: bool) -> dict:
    """Both measurements of one way of running the layers."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "cached"):
            command = [sys.executable, "-m", "benchmarks.compile_times"]
            command += [f"--size={size}", f"--work={int(scan)}"]
            done = subprocess.run(
                command,
                env=os.environ
                | {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PLATFORMS": "cpu"},
                capture_output=True,
                text=True,
                check=True,
            )
            found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="vit_b32")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        work(given.size, bool(given.work))
        return
    report = {
        "machine": machine(),
        "versions": {"jax": metadata.version("jax")},
        "size": given.size,
        "loop": measure(given.size, scan=True),
        "one after another": measure(given.size, scan=False),
    }
    publish(report, given.output)


if __name__ == "__main__":
    main()
