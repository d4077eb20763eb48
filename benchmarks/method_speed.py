"""Seconds that methods take to embed videos, beside each other.

    python -m benchmarks.method_speed [--methods=NAME,...] [--rounds=7] [--output=FILE]

ViT-B/32 of random weights, videos of 12 frames, float32. The methods take turns within
one process, so that what else the machine does slows all of them alike; the ratios are
of medians, to the first method. CPU seconds are those of this process, compiling apart.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.report import machine, publish
from vop_jax.model.clip.families import SIZES
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.shapes import abstract_variables

FRAMES = 12


def compiled(name: str, videos: int) -> tuple[Any, Any, dict[str, float]]:
    """A method's compiled video encoder, its inputs, and what compiling took."""
    size, row = SIZES["vit_b32"], METHODS[name]
    config = row.prompt_config(size.vision.layers, FRAMES)
    model = DualEncoder(size, config, renormalize_video=row.renormalize_video)
    random = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: jnp.asarray(0.02 * random.standard_normal(x.shape), jnp.float32),
        abstract_variables(size, config),
    )
    side = size.image_size
    frames = random.integers(0, 256, (videos, FRAMES, side, side, 3), np.uint8)

    def encode(variables: Any, frames: Any) -> Any:
        return model.apply(variables, frames, method="encode_videos")

    lowered = jax.jit(encode).lower(variables, frames)
    begun = time.process_time(), time.perf_counter()
    program = lowered.compile()
    spent = {
        "compile_cpu_seconds": round(time.process_time() - begun[0], 2),
        "compile_seconds": round(time.perf_counter() - begun[1], 2),
    }
    return program, (variables, frames), spent


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="zero_shot,vop,tempme")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    names = given.methods.split(",")
    sides = {name: compiled(name, given.videos) for name in names}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(given.rounds + 1):
        for name, (program, inputs, _) in sides.items():
            begun = time.process_time(), time.perf_counter()
            jax.block_until_ready(program(*inputs))
            spent = time.process_time() - begun[0], time.perf_counter() - begun[1]
            # The first run of each also brings its memory into being.
            if turn:
                taken[name].append(spent)
    medians = {
        name: [statistics.median(x) for x in zip(*runs, strict=True)]
        for name, runs in taken.items()
    }
    first = medians[names[0]]
    report = {
        "machine": machine(),
        "setting": {
            "backbone": "vit_b32",
            "videos": given.videos,
            "frames": FRAMES,
            "rounds": given.rounds,
        },
        "methods": {
            name: {
                "cpu_seconds": round(cpu, 3),
                "seconds": round(wall, 3),
                "cpu_ratio": round(cpu / first[0], 3),
                "ratio": round(wall / first[1], 3),
                **sides[name][2],
            }
            for name, (cpu, wall) in medians.items()
        },
    }
    publish(report, given.output)


if __name__ == "__main__":
    main()
