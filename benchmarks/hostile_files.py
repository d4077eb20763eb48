"""Converts mutated weight files and monitors the converting process.

    python -m benchmarks.hostile_files [--count=20000] [--first=0] [--processes=2]
        [--json=FILE]

Four files of a tiny CLIP (PyTorch's in float32, in float16, with the authors' prompts;
and safetensors) are changed in ways that a seed decides: single bytes and numbers;
slices cut, moved or doubled; the pickle or the header alone, with all checksums made
right again; values that are not finite; and sizes that are stated alike in every place,
while the record has no more bytes. Each is converted in a process that may take 500 MiB
more than good conversions took.

Counted are crashes and hangs of that process, errors that are not one line, seconds,
and outputs with a number that is not finite or with bytes that the input does not have.
"""

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from benchmarks.mutations import KINDS, SIZE, mutate
from data_pipelines.console.arguments import Parser
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.terminal import progress, table
from vop_jax.model.clip.param_shapes import param_shapes
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.weights import backbone
from vop_jax.weights import clip_import as clip_source
from vop_jax.weights.backbone import save_backbone
from vop_jax.weights.clip_export import convert
from vop_jax.weights.clip_import import open_clip_source
from vop_jax.weights.clip_names import to_modelscope, to_openai
from vop_jax.weights.special_tokens import Ends
from vop_jax.weights.tensors import Tensor, tensor_of, write_safetensors
from vop_jax.weights.torch_writer import write_torch

PROMPTS = 2
# Bytes that a process may take beyond those of good conversions, and seconds a file.
MEMORY, HANG = 500 << 20, 60


def sources(folder: Path) -> dict[str, bytes]:
    """The good files: name -> bytes."""
    rng = np.random.default_rng(0)
    leaves = {
        path: 0.02 * rng.standard_normal(shape, np.float32)
        for path, shape in param_shapes(SIZE).items()
    }
    tree = traverse_util.unflatten_dict(leaves, sep="/")
    save_backbone(folder / "clip", SIZE, tree)
    shape = (SIZE.vision.layers, PROMPTS, SIZE.vision.width)
    prompts = {
        f"{name}_prompts": tensor_of(rng.standard_normal(shape, np.float32))
        for name in ("text", "video")
    }
    with ExitStack() as stack:
        clip = open_clip_source(folder / "clip", "", stack).clip
        named = to_openai(clip)
        write_safetensors(folder / "float32.safetensors", named)
        for name, tensors, kind, wrap in (
            ("float32.pt", named, "<f4", ""),
            ("float16.pt", named, "<f2", ""),
            ("prompts.pth", to_modelscope(clip, prompts), "<f4", "state_dict"),
        ):
            _write(folder / name, tensors, kind, wrap)
    found = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: path.read_bytes() for path in found}


def _write(path: Path, tensors: dict[str, Tensor], kind: Any, wrap: str) -> None:
    entries = {name: (x.shape, np.dtype(kind)) for name, x in tensors.items()}
    write_torch(path, entries, lambda name: tensors[name].read(), wrap)


def judge(data: bytes, output: Path) -> str:
    """What is wrong with a conversion's output, or empty."""
    for path in sorted(output.glob("*.safetensors")):
        raw = path.read_bytes()
        length = struct.unpack_from("<Q", raw)[0]
        for name, entry in json.loads(raw[8 : 8 + length]).items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            part = raw[8 + length + begin : 8 + length + end]
            value = np.frombuffer(part, "<f4").reshape(entry["shape"])
            if not np.isfinite(value).all():
                return f"{path.name}: {name} is not finite"
            if not _comes_from(value, data):
                return f"{path.name}: {name} is not in the input"
    return ""


def _comes_from(value: np.ndarray, data: bytes) -> bool:
    """Whether an array's bytes are the input's, as a whole or number by number."""
    forms = [value, value.T]
    with np.errstate(over="ignore"):
        forms += [x.astype("<f2") for x in forms if (x.astype("<f2") == x).all()]
    if any(x.tobytes() in data for x in forms):
        return True
    # A view with other strides.
    numbers = np.unique(forms[-2 if len(forms) > 2 else 0])
    return all(x.tobytes() in data for x in numbers)


def _child(pipe: Any, folder: Path, files: dict[str, bytes]) -> None:
    """Converts the files that are asked for by their seed, for ever."""
    # Tracing the model for its shapes takes longer than all else, and is always alike.
    known: dict[ClipSize, Any] = {}

    def shapes(size: ClipSize) -> Any:
        if size not in known:
            known[size] = param_shapes(size)
        return known[size]

    backbone.param_shapes = shapes
    # A file of a small vocabulary does not say it, and a larger one takes minutes more.
    clip_source.caption_ends = lambda folder, size, stated, where: Ends(
        size.vocabulary - 2, size.vocabulary - 1
    )
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for name, data in files.items():
        if attempt(name, data, folder)["answer"] != "converted":
            raise ValueError(f"{name} is not converted though nothing is changed")
    taken = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    )
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    pipe.send("ready")
    while (seed := pipe.recv()) is not None:
        name, kind = chosen(seed, files)
        data = mutate(files[name], kind, np.random.default_rng(seed))
        pipe.send(attempt(name, data, folder) | {"seed": seed, "kind": kind})


def chosen(seed: int, files: dict[str, bytes]) -> tuple[str, str]:
    """The file and the kind of change of a seed."""
    names = list(files)
    return names[seed % len(names)], KINDS[seed // len(names) % len(KINDS)]


def attempt(name: str, data: bytes, folder: Path) -> dict[str, Any]:
    """Converts one file.

    Returns:
        `answer`: converted, refused, or what went wrong; `message`; `seconds`.
    """
    path, output = folder / name, folder / "out"
    path.write_bytes(data)
    shutil.rmtree(output, ignore_errors=True)
    answer, message = "converted", ""
    began = time.perf_counter()
    try:
        convert(path, output, "huggingface")
    except UserError as error:
        answer, message = "refused", str(error)
        if "\n" in message or len(message) > 2000:
            answer = "refused in more than a line"
    except BaseException as error:
        answer, message = "another error", repr(error)[:500]
    seconds = time.perf_counter() - began
    if answer == "converted":
        message = judge(data, output)
        answer = "false output" if message else answer
    elif output.exists():
        answer = "left something behind"
    message = message.replace(str(path), "FILE")
    return {"answer": answer, "message": message, "seconds": seconds}


class _Worker:
    """A process that converts, started again where it dies."""

    def __init__(self, folder: Path, files: dict[str, bytes]):
        self._folder, self._files = folder, files
        self._folder.mkdir()
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        arguments = (other, self._folder, self._files)
        self.process = context.Process(target=_child, args=arguments, daemon=True)
        self.process.start()
        other.close()
        assert self.pipe.recv() == "ready"

    def ask(self, seed: int) -> None:
        self.seed, self.began = seed, time.perf_counter()
        self.pipe.send(seed)

    def answer(self) -> dict[str, Any] | None:
        """The result, a crash's or a hang's, or None where it is still at work."""
        try:
            if self.pipe.poll():
                return self.pipe.recv()
        except (EOFError, ConnectionError):
            return self._lost("crash")
        if time.perf_counter() - self.began > HANG:
            self.process.kill()
            return self._lost("hang")
        return None

    def _lost(self, answer: str) -> dict[str, Any]:
        self.process.join()
        _, kind = chosen(self.seed, self._files)
        message = f"exit status {self.process.exitcode}"
        seconds = time.perf_counter() - self.began
        self._start()
        return {"answer": answer, "message": message, "seconds": seconds} | {
            "seed": self.seed,
            "kind": kind,
        }

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(10)


def run(first: int, count: int, processes: int) -> list[dict[str, Any]]:
    """The results of seeds in a row."""
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as aside, ExitStack() as stack:
        (Path(aside) / "good").mkdir()
        files = sources(Path(aside) / "good")
        workers = [_Worker(Path(aside) / str(i), files) for i in range(processes)]
        for worker in workers:
            stack.callback(worker.close)
        bar = stack.enter_context(progress("mutated files", count, "files"))
        seeds = iter(range(first, first + count))
        busy = {worker for worker in workers if _next(worker, seeds)}
        while busy:
            multiprocessing.connection.wait([x.pipe for x in busy], timeout=1)
            for worker in list(busy):
                if (result := worker.answer()) is not None:
                    results.append(result)
                    bar.advance(1)
                    if not _next(worker, seeds):
                        busy.remove(worker)
    return results


def _next(worker: _Worker, seeds: Any) -> bool:
    seed = next(seeds, None)
    if seed is not None:
        worker.ask(seed)
    return seed is not None


@command
def main() -> int:
    """Parses the flags, converts and counts."""
    parser = Parser("benchmarks.hostile_files", __doc__)
    parser.add_argument("--count", type=int, default=20_000, help="files")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--processes", type=int, default=2, help="at once")
    parser.add_argument("--json", type=Path, help="file for the figures")
    flags = parser.parse_args()
    results = run(flags.first, flags.count, flags.processes)
    counts = {
        kind: Counter(x["answer"] for x in results if x["kind"] == kind)
        for kind in KINDS
    }
    worst = sorted(results, key=lambda x: -x["seconds"])[:5]
    bad = [x for x in results if x["answer"] not in ("converted", "refused")]
    figures: dict[str, Any] = {
        "files": len(results),
        "answers": dict(Counter(x["answer"] for x in results)),
        "by_change": {kind: dict(found) for kind, found in counts.items()},
        "slowest_seconds": round(worst[0]["seconds"], 3),
        "median_seconds": round(float(np.median([x["seconds"] for x in results])), 4),
        "crashes": sum(x["answer"] == "crash" for x in results),
        "hangs": sum(x["answer"] == "hang" for x in results),
        "false_outputs": sum(x["answer"] == "false output" for x in results),
        "memory_limit_mib": MEMORY >> 20,
    }
    answers = sorted(figures["answers"])
    rows = [[kind, *(str(x[name]) for name in answers)] for kind, x in counts.items()]
    table(f"{len(results)} mutated files", ["change", *answers], rows)
    columns = ["seed", "change", "answer", "seconds", "message"]
    rows = [
        [str(x["seed"]), x["kind"], x["answer"], f"{x['seconds']:.2f}", x["message"]]
        for x in [*bad[:20], *worst]
    ]
    table("wrong, then slowest", columns, rows)
    if flags.json:
        flags.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    main()
