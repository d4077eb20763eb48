"""Time and memory of converting a full-size CLIP.

    python -m benchmarks.conversion [--size=vit_b32] [--folder=DIR] [--json=FILE]

The weights are random. Three conversions are measured, each by the command in its own
process: OpenAI's state dictionary in float16 and ModelScope's in float32 (which holds
the CLIP twice) to a Hugging Face folder, and the folder to OpenAI's file.
"""

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.random_clip import write_random_clip
from data_pipelines.console.arguments import Parser
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.terminal import table
from vop_jax.model.clip.families import SIZES
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.weights.clip_import import open_clip_source
from vop_jax.weights.clip_names import to_modelscope, to_openai
from vop_jax.weights.tensors import Tensor, tensor_of
from vop_jax.weights.torch_writer import write_torch

PROMPTS = 8


def _write(path: Path, tensors: dict[str, Tensor], kind: Any, wrap: str = "") -> None:
    entries = {name: (x.shape, np.dtype(kind)) for name, x in tensors.items()}
    write_torch(path, entries, lambda name: tensors[name].read(), wrap)


def prepare(folder: Path, size: ClipSize) -> dict[str, Path]:
    """Writes the files to convert: name of the format -> path."""
    paths = {
        "openai float16": folder / "openai" / "clip.pt",
        "modelscope float32": folder / "modelscope" / "VoP_msrvtt9k.pth",
        "huggingface float32": folder / "clip",
    }
    write_random_clip(paths["huggingface float32"], size)
    rng = np.random.default_rng(1)
    prompts = {
        f"{name}_prompts": tensor_of(
            rng.standard_normal((tower.layers, PROMPTS, tower.width), np.float32)
        )
        for name, tower in (("text", size.text), ("video", size.vision))
    }
    with ExitStack() as stack:
        clip = open_clip_source(paths["huggingface float32"], "", stack).clip
        _write(paths["openai float16"], to_openai(clip), "<f2")
        named = to_modelscope(clip, prompts)
        _write(paths["modelscope float32"], named, "<f4", "state_dict")
    return paths


# Runs a command and prints its status, seconds and peak KiB. It is a small process of
# its own, because Linux includes the memory of the process before `exec`.
_METER = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
wall, usage = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = usage.ru_utime + usage.ru_stime
print(json.dumps([status, wall, cpu, usage.ru_maxrss]))
"""


def measure(path: Path, output: Path, *flags: str) -> dict[str, float]:
    """Converts in a process of its own.

    Returns:
        `wall_seconds`, `cpu_seconds`, `peak_mib`, and `file_mib` of the input.

    Raises:
        UserError: the conversion failed.
    """
    file = path if path.is_file() else path / "model.safetensors"
    call = [sys.executable, "-m", "vop_jax.convert", f"--input={path}"]
    done = subprocess.run(
        [sys.executable, "-c", _METER, *call, f"--output={output}", *flags],
        capture_output=True,
        text=True,
        check=True,
    )
    status, wall, cpu, peak = json.loads(done.stdout)
    if status:
        raise UserError(f"the conversion of {path} failed: {done.stderr.strip()}")
    return {
        "wall_seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mib": round(peak / 1024, 1),
        "file_mib": round(file.stat().st_size / 2**20, 1),
    }


@command
def main() -> None:
    """Parses the flags and measures."""
    parser = Parser("benchmarks.conversion", __doc__)
    parser.add_argument("--size", default="vit_b32", choices=sorted(SIZES))
    parser.add_argument(
        "--folder", type=Path, help="folder for the files (default: temporary)"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    flags = parser.parse_args()
    with ExitStack() as stack:
        aside = stack.enter_context(tempfile.TemporaryDirectory())
        folder = flags.folder or Path(aside)
        paths = prepare(folder, SIZES[flags.size])
        figures = {}
        for name, path in paths.items():
            target = ("--to=openai",) if name.startswith("hugging") else ()
            label = f"{name} -> {'openai' if target else 'huggingface'} float32"
            figures[label] = measure(path, folder / f"out-{len(figures)}", *target)
    rows = []
    for name, x in figures.items():
        ratio = x["peak_mib"] / x["file_mib"]
        rows.append([name, *(f"{value:,.1f}" for value in x.values()), f"{ratio:.2f}"])
    columns = ["conversion", "wall s", "CPU s", "peak MiB", "file MiB", "peak / file"]
    table(f"{flags.size}, random weights", columns, rows)
    if flags.json:
        flags.json.write_text(json.dumps({flags.size: figures}, indent=1))


if __name__ == "__main__":
    main()
