"""Train step and forward pass of base VoP compared with plain PyTorch, on a CPU.

    python -m benchmarks.train_step [--rounds=7] [--sides=NAME,...] [--output=FILE]

ViT-B/32, 12 frames, 4 videos in a train step and 8 in a forward pass, two threads, the
same random weights, the same batch; float32, and bfloat16 (PyTorch's by autocast). Each
side has its own process; they take turns while the others are idle. CPU and wall
seconds are those of the working process. What bfloat16 gains depends on the CPU's
instructions, which are printed.

This project's commands have the C library keep freed memory
(`vop_jax.runtime.startup`), and so do our sides here. PyTorch runs in float32
twice: as it comes, and with the same setting.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import machine, publish
from vop_jax.runtime.startup import keep_freed_memory, start_up

BATCH, FORWARD_BATCH, FRAMES, PROMPTS, SEED = 4, 8, 12, 8, 0
RATE, DECAY = 1e-3, 0.2
# Name -> the class of a side and its arguments.
SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "jax": ("JaxSide", {"dtype": "float32"}),
    "jax_bfloat16": ("JaxSide", {"dtype": "bfloat16"}),
    "torch": ("TorchSide", {"dtype": "float32", "kept": False}),
    "torch_kept": ("TorchSide", {"dtype": "float32", "kept": True}),
    "torch_bfloat16": ("TorchSide", {"dtype": "bfloat16", "kept": False}),
}
# What is divided by what.
RATIOS = (
    ("jax", "torch"),
    ("jax", "torch_kept"),
    ("jax_bfloat16", "torch_bfloat16"),
    ("jax_bfloat16", "torch"),
    ("jax_bfloat16", "jax"),
)


def problem():
    """Random backbone weights by path, prompts, frames and token ids."""
    import jax

    from vop_jax.model.clip.families import SIZES
    from vop_jax.model.methods import METHODS
    from vop_jax.model.shapes import abstract_variables

    size = SIZES["vit_b32"]
    config = METHODS["vop"].prompt_config(size.vision.layers, FRAMES)
    rng = np.random.default_rng(SEED)

    def draw(path, leaf):
        name = path[-1].key
        middle = {"scale": 1.0, "logit_scale": 3.0}.get(name, 0.0)
        noise = 0.03 * rng.standard_normal(leaf.shape, np.float32)
        return np.asarray(middle + noise, np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, abstract_variables(size, config))
    shape = (BATCH, FRAMES, size.image_size, size.image_size, 3)
    frames = rng.integers(0, 256, shape, np.uint8)
    ids = np.zeros((BATCH, size.context_length), np.int32)
    for row, length in zip(ids, (9, 14, 11, 27), strict=True):
        words = rng.integers(1, size.eos_id - 1, length - 2)
        row[:length] = [size.eos_id - 1, *words, size.eos_id]
    return size, config, variables, frames, ids


class JaxSide:
    """This project's step, compiled as for a run."""

    def __init__(self, dtype: str):
        start_up()
        import jax

        from data_pipelines.text.buckets import bucket_length
        from vop_jax.devices.config import MeshConfig
        from vop_jax.devices.mesh import make_mesh, put_batch, put_tree
        from vop_jax.model.compute import ComputeConfig
        from vop_jax.model.dual_encoder import DualEncoder
        from vop_jax.model.embedder import Embedder
        from vop_jax.model.methods import METHODS
        from vop_jax.model.stored import store_frozen
        from vop_jax.model.trained import select, trained_mask
        from vop_jax.optimization.config import OptimizerConfig
        from vop_jax.optimization.optimizer import make_optimizer
        from vop_jax.optimization.train_step import (
            compile_train_step,
            initial_state,
            make_loss_and_gradient,
            make_train_step,
            merge,
        )

        size, config, variables, frames, ids = problem()
        mesh = make_mesh(MeshConfig())
        mask = trained_mask(variables, METHODS["vop"].trained)
        trainable = put_tree(mesh, select(variables, mask, trained=True))
        frozen = store_frozen(select(variables, mask, trained=False), dtype)
        self.frozen = put_tree(mesh, frozen)
        model = DualEncoder(size, config, ComputeConfig(dtype=dtype))
        optimizer = make_optimizer(
            OptimizerConfig(warmup=0, weight_decay=DECAY, clip_norm=0, beta2=0.999),
            trainable,
            10**6,
        )
        self.state = put_tree(
            mesh, jax.device_get(initial_state(trainable, optimizer, RATE))
        )
        step = make_train_step(model, optimizer, mesh)
        self.run = compile_train_step(step, mesh, self.state, self.frozen)
        longest = int((ids != 0).sum(1).max())
        ids = ids[:, : bucket_length(longest, ids.shape[1])]
        self.batch = put_batch(mesh, {"frames": frames, "text_ids": ids})
        many = FORWARD_BATCH // BATCH
        twice = {"frames": np.tile(frames, (many, 1, 1, 1, 1))}
        self.twice = put_batch(mesh, twice | {"text_ids": np.tile(ids, (many, 1))})
        self.gradient = jax.jit(make_loss_and_gradient(model, mesh))
        self.merge, self.embedder = merge, Embedder(model, mesh)

    def forward(self):
        """The features."""
        variables = self.merge(self.state.trainable, self.frozen)
        found = [
            self.embedder.embed_videos(variables, self.twice["frames"]),
            self.embedder.embed_texts(variables, self.twice["text_ids"]),
        ]
        return [np.asarray(x) for x in found]

    def train(self):
        """A step; the loss before it."""
        self.state, metrics = self.run(self.state, self.frozen, self.batch)
        return float(metrics["loss"])

    def outputs(self):
        """Features and gradients, by name."""
        videos, texts = self.forward()
        _, gradient = self.gradient(self.state.trainable, self.frozen, self.batch)
        return {
            "videos": videos,
            "texts": texts,
            "video_prompts": gradient["prompts"]["vision"]["prompts"]["video_prompts"],
            "text_prompts": gradient["prompts"]["text"]["prompts"]["text_prompts"],
        }


class TorchSide:
    """The PyTorch step."""

    def __init__(self, dtype: str, kept: bool):
        if kept:
            keep_freed_memory()
        import torch

        from benchmarks.plain_vop import PlainVop, load
        from vop_jax.weights.backbone_records import RECORDS, layer_count
        from vop_jax.weights.records import to_names

        torch.set_num_threads(2)
        size, _, variables, frames, ids = problem()
        self.torch, self.model = torch, PlainVop(size, PROMPTS)
        named = to_names(RECORDS, variables["params"], layer_count(size))
        prompts = variables["prompts"]
        load(
            self.model,
            named,
            prompts["vision"]["prompts"]["video_prompts"],
            prompts["text"]["prompts"]["text_prompts"],
        )
        self.trained = [self.model.video_prompts, self.model.text_prompts]
        self.optimizer = torch.optim.AdamW(self.trained, lr=RATE, weight_decay=DECAY)
        self.batch = torch.tensor(frames), torch.tensor(ids).long()
        many = FORWARD_BATCH // BATCH
        self.twice = [torch.cat([x] * many) for x in self.batch]
        self.narrow = dtype != "float32"

    def run(self, batch):
        """Loss and features of a batch."""
        with self.torch.autocast("cpu", self.torch.bfloat16, enabled=self.narrow):
            return self.model(*batch)

    def forward(self):
        """The features."""
        with self.torch.no_grad():
            return [x.float().numpy() for x in self.run(self.twice)[1:]]

    def train(self):
        """A step; the loss before it."""
        self.optimizer.zero_grad()
        loss = self.run(self.batch)[0]
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def outputs(self):
        """Features and gradients, by name."""
        videos, texts = self.forward()
        loss = self.run(self.batch)[0]
        gradient = self.torch.autograd.grad(loss, self.trained)
        return {
            "videos": videos,
            "texts": texts,
            "video_prompts": gradient[0].numpy(),
            "text_prompts": gradient[1].numpy(),
        }


def work(name: str) -> None:
    """Answers each request from standard input on standard output."""
    kind, arguments = SIDES[name]
    side = {"JaxSide": JaxSide, "TorchSide": TorchSide}[kind](**arguments)
    print("{}", flush=True)
    for line in sys.stdin:
        request, argument = json.loads(line)
        if request == "outputs":
            found: dict[str, Any] = side.outputs()
            np.savez(argument, **found)
            print("{}", flush=True)
            continue
        before = time.perf_counter(), time.process_time()
        said = getattr(side, request)()
        wall, cpu = time.perf_counter() - before[0], time.process_time() - before[1]
        loss = said if request == "train" else None
        print(json.dumps({"wall": wall, "cpu": cpu, "loss": loss}), flush=True)


class Worker:
    """One side's process."""

    def __init__(self, name: str):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.train_step", f"--work={name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # PyTorch's waiting threads sleep: on a busy machine they would otherwise
            # spend CPU time that is not work, to PyTorch's disadvantage.
            env=os.environ
            | {
                "OMP_NUM_THREADS": "2",
                "OMP_WAIT_POLICY": "PASSIVE",
                "JAX_PLATFORMS": "cpu",
            },
        )
        self._answer()

    def _answer(self):
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, request: str, argument: str = ""):
        """Sends a request and waits for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([request, argument]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def differences(workers, folder: Path) -> dict[str, dict[str, float]]:
    """How far each side is from PyTorch in float32 (or from the first side).

    Of features the largest difference and the smallest cosine, of gradients the
    difference relative to their length.
    """
    outputs = {}
    for name, worker in workers.items():
        file = folder / f"{name}.npz"
        worker.ask("outputs", str(file))
        outputs[name] = np.load(file)
    right = outputs.pop("torch" if "torch" in outputs else next(iter(outputs)))
    found: dict[str, dict[str, float]] = {}
    for name, ours in outputs.items():
        found[name] = one = {}
        for key in ours:
            difference, length = ours[key] - right[key], np.linalg.norm(right[key])
            if "prompts" in key:
                one[key] = float(np.linalg.norm(difference) / length)
                continue
            one[key] = float(np.abs(difference).max())
            lengths = [np.linalg.norm(x[key], axis=1) for x in (ours, right)]
            cosine = (ours[key] * right[key]).sum(1) / lengths[0] / lengths[1]
            one[f"{key}_cosine"] = float(cosine.min())
    return found


def compare(rounds: int, sides: list[str], folder: Path) -> dict:
    """Runs the sides in turns."""
    workers = {name: Worker(name) for name in sides}
    report: dict[str, Any] = {
        "machine": machine() | {"threads": 2},
        "versions": {name: metadata.version(name) for name in ("jax", "torch")},
        "setting": {
            "backbone": "vit_b32",
            "batch": BATCH,
            "forward_batch": FORWARD_BATCH,
            "frames": FRAMES,
        },
        "rounds": rounds,
        "differences": differences(workers, folder),
    }
    for request in ("forward", "train"):
        taken = {name: {"wall": [], "cpu": [], "loss": []} for name in sides}
        for number in range(rounds + 1):
            # The order alternates, so that none always gets the warmer machine.
            for name in sides if number % 2 else reversed(sides):
                answer = workers[name].ask(request)
                # The first of each compiles and warms up.
                if number:
                    for key, value in answer.items():
                        taken[name][key].append(value)
        report[request] = {
            kind: {
                **{name: statistics.median(taken[name][kind]) for name in sides},
                **{
                    f"{one}/{other}": statistics.median(
                        a / b
                        for a, b in zip(
                            taken[one][kind], taken[other][kind], strict=True
                        )
                    )
                    for one, other in RATIOS
                    if one in sides and other in sides
                },
            }
            for kind in ("cpu", "wall")
        }
        if request == "train" and {"jax", "torch"} <= set(sides):
            report["differences"]["jax"]["loss"] = max(
                abs(a - b)
                for a, b in zip(
                    taken["jax"]["loss"], taken["torch"]["loss"], strict=True
                )
            )
    for worker in workers.values():
        worker.end()
    return report


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        report = compare(arguments.rounds, arguments.sides.split(","), Path(folder))
    publish(report, arguments.output)


if __name__ == "__main__":
    main()
