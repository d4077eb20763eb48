"""The train step and the forward pass of base VoP against plain PyTorch, on a CPU.

    python -m benchmarks.train_step [--rounds=9] [--output=FILE]

ViT-B/32, 12 frames, 4 videos, float32, two threads, the same random weights, the same
batch. Each side lives in a process of its own; they take turns, and the others are
idle meanwhile. CPU and wall seconds are of the process that works.

This project's commands have the C library keep freed memory (`vop_jax.freed_memory`),
and so does our side here. PyTorch runs twice: as it comes, and with the same setting.
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
from vop_jax.freed_memory import keep_freed_memory
from vop_jax.startup import start_up

BATCH, FRAMES, PROMPTS, SEED = 4, 12, 8, 0
RATE, DECAY = 1e-3, 0.2
SIDES = ("jax", "torch", "torch_kept")


def problem():
    """Random weights of the backbone by our paths, prompts, frames, token ids."""
    import jax

    from vop_jax.methods import METHODS
    from vop_jax.parameters import abstract_variables
    from vop_jax.sizes import SIZES

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
    """This project's own step, compiled as it is for a run."""

    def __init__(self):
        start_up()
        import jax

        from data_pipelines.buckets import bucket_length
        from vop_jax.dual_encoder import DualEncoder
        from vop_jax.embedder import Embedder
        from vop_jax.methods import METHODS, select, trained_mask
        from vop_jax.optimizer import OptimizerConfig, make_optimizer
        from vop_jax.sharding import MeshConfig, make_mesh, put_batch, put_tree
        from vop_jax.train_step import (
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
        self.frozen = put_tree(mesh, select(variables, mask, trained=False))
        model = DualEncoder(size, config)
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
        self.gradient = jax.jit(make_loss_and_gradient(model, mesh))
        self.merge, self.embedder = merge, Embedder(model, mesh)

    def forward(self):
        """The features."""
        variables = self.merge(self.state.trainable, self.frozen)
        found = [
            self.embedder.embed_videos(variables, self.batch["frames"]),
            self.embedder.embed_texts(variables, self.batch["text_ids"]),
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
    """The plain step."""

    def __init__(self, kept: bool):
        if kept:
            keep_freed_memory()
        import torch

        from benchmarks.plain_vop import PlainVop, load
        from vop_jax.backbone import RECORDS, layer_count
        from vop_jax.conversion import to_names

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

    def forward(self):
        """The features."""
        with self.torch.no_grad():
            return [x.numpy() for x in self.model(*self.batch)[1:]]

    def train(self):
        """A step; the loss before it."""
        self.optimizer.zero_grad()
        loss = self.model(*self.batch)[0]
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def outputs(self):
        """Features and gradients, by name."""
        videos, texts = self.forward()
        loss = self.model(*self.batch)[0]
        gradient = self.torch.autograd.grad(loss, self.trained)
        return {
            "videos": videos,
            "texts": texts,
            "video_prompts": gradient[0].numpy(),
            "text_prompts": gradient[1].numpy(),
        }


def work(name: str) -> None:
    """Answers, on standard output, each request that comes on standard input."""
    side = JaxSide() if name == "jax" else TorchSide(name == "torch_kept")
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
            # burn CPU time that is no work, and lose by it.
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


def differences(workers, folder: Path) -> dict[str, float]:
    """Largest difference of features; relative difference of gradients."""
    found = {}
    outputs = []
    for name in ("jax", "torch"):
        file = folder / f"{name}.npz"
        workers[name].ask("outputs", str(file))
        outputs.append(np.load(file))
    ours, theirs = outputs
    for key in ours:
        difference = ours[key] - theirs[key]
        if "prompts" in key:
            found[key] = np.linalg.norm(difference) / np.linalg.norm(theirs[key])
        else:
            found[key] = np.abs(difference).max()
    return {key: float(value) for key, value in found.items()}


def compare(rounds: int, folder: Path) -> dict:
    """Runs both sides in turns."""
    workers = {name: Worker(name) for name in SIDES}
    report = {
        "machine": machine() | {"threads": 2},
        "versions": {name: metadata.version(name) for name in ("jax", "torch")},
        "setting": {"backbone": "vit_b32", "batch": BATCH, "frames": FRAMES},
        "rounds": rounds,
        "differences": differences(workers, folder),
    }
    for request in ("forward", "train"):
        taken = {name: {"wall": [], "cpu": [], "loss": []} for name in SIDES}
        for number in range(rounds + 1):
            # Who begins changes, so that neither always finds the warmer machine.
            for name in SIDES if number % 2 else reversed(SIDES):
                answer = workers[name].ask(request)
                # The first of each compiles and warms up.
                if number:
                    for key, value in answer.items():
                        taken[name][key].append(value)
        report[request] = {
            kind: {
                **{name: statistics.median(taken[name][kind]) for name in SIDES},
                **{
                    f"ratio_to_{name}": statistics.median(
                        a / b
                        for a, b in zip(
                            taken["jax"][kind], taken[name][kind], strict=True
                        )
                    )
                    for name in SIDES[1:]
                },
            }
            for kind in ("cpu", "wall")
        }
        if request == "train":
            report["differences"]["loss"] = max(
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
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        report = compare(arguments.rounds, Path(folder))
    publish(report, arguments.output)


if __name__ == "__main__":
    main()
