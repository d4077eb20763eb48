"""The training loop: feed, step, check, log, save."""

import collections
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from data_pipelines.errors import UserError
from data_pipelines.feed import TrainFeed
from data_pipelines.terminal import progress, say, warn
from vop_jax.checkpoint import Checkpoints
from vop_jax.embedder import score
from vop_jax.metrics import ORDERS, both_ways
from vop_jax.optimizer import make_optimizer, rate_schedule
from vop_jax.run import Run
from vop_jax.run_folder import MetricsWriter
from vop_jax.sharding import put_batch, put_tree, tree_shardings
from vop_jax.train_step import (
    TrainState,
    compile_train_step,
    initial_state,
    make_train_step,
    merge,
)


class Meter:
    """Where the time of the steps goes."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Starts anew; what lies between two stretches of training is not counted."""
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def waiting(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, with the time spent waiting for each counted."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            if batch is None:
                return
            self._waited += time.perf_counter() - before
            self._steps += 1
            yield batch

    def figures(self, batch_size: int) -> dict[str, float]:
        """Seconds of a step, videos per second and the share spent waiting for data."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        steps = max(self._steps, 1)
        return {
            "step_seconds": seconds / steps,
            "videos_per_second": steps * batch_size / seconds,
            "data_wait_fraction": self._waited / seconds,
        }


class _Pending(NamedTuple):
    """A step that was sent off and whose loss nobody has looked at."""

    step: int
    metrics: dict[str, jax.Array]
    videos: np.ndarray


def train(run: Run) -> Any:
    """Trains a run from its last checkpoint, or from the start.

    Returns:
        The variable tree, on the run's mesh.

    Raises:
        UserError: a loss that is not finite, a checkpoint of another model, no room.
    """
    if not run.leaves:
        return run.frozen
    config, folder = run.config, run.folder
    feed = run.feed()
    steps = config.epochs * feed.steps_per_epoch
    optimizer = make_optimizer(config.optimizer, run.trainable, steps)
    rate = config.optimizer.learning_rate
    state = jax.jit(lambda tree: initial_state(tree, optimizer, rate))(run.trainable)
    state = put_tree(run.mesh, jax.device_get(state))
    folder.start(config.as_json())
    checkpoints = Checkpoints(
        folder.checkpoints, keep=config.keep_checkpoints, report=warn
    )
    like = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        state,
        tree_shardings(run.mesh, state),
    )
    restored = checkpoints.restore(like)
    start = 0
    if restored is not None:
        state, start = restored.state, restored.step
        say(f"going on from the checkpoint of step {start} of {steps}")
    writer = MetricsWriter(folder, start)
    try:
        loop = _Loop(run, feed, optimizer, checkpoints, writer, steps)
        state = loop.run(state, start)
    finally:
        writer.close()
        checkpoints.close()
    return merge(state.trainable, run.frozen)


class _Loop:
    """The steps of a run; holds what stays the same from one to the next."""

    def __init__(
        self,
        run: Run,
        feed: TrainFeed,
        optimizer: optax.GradientTransformation,
        checkpoints: Checkpoints,
        writer: MetricsWriter,
        steps: int,
    ):
        self._run, self._feed, self._steps = run, feed, steps
        self._checkpoints, self._writer = checkpoints, writer
        self._step = make_train_step(
            run.model,
            optimizer,
            run.mesh,
            micro_batch=run.config.micro_batch,
            loss_chunk=run.config.loss_chunk,
        )
        self._schedule = rate_schedule(run.config.optimizer, steps)

    def run(self, state: TrainState, start: int) -> TrainState:
        """Runs the steps from `start` to the end."""
        run, config, steps = self._run, self._run.config, self._steps
        step_function = compile_train_step(self._step, run.mesh, state, run.frozen)
        meter = Meter()
        pending: collections.deque[_Pending] = collections.deque()
        shown: dict[str, str] = {}
        left = (steps - start) * config.batch_size
        with progress("training", total=left, unit="videos") as bar:
            batches = meter.waiting(self._feed.batches(start, steps))
            for step, batch in enumerate(batches, start + 1):
                inputs = {name: batch[name] for name in ("frames", "text_ids")}
                state, metrics = step_function(
                    state, run.frozen, put_batch(run.mesh, inputs)
                )
                pending.append(_Pending(step, metrics, batch["video"]))
                saving = step % config.save_every == 0 or step == steps
                # One step stays in flight so that the device need not wait; before a
                # save every loss has been looked at, so no bad state is ever saved.
                while len(pending) > (0 if saving else 1):
                    shown["loss"] = f"{self._finite_loss(pending.popleft()):.3f}"
                    bar.advance(config.batch_size, **shown)
                if step % config.log_every == 0 or step == steps:
                    figures = meter.figures(config.batch_size)
                    shown["waiting"] = f"{figures['data_wait_fraction']:.0%}"
                    self._log(step, metrics, figures)
                    meter.reset()
                if saving:
                    self._validate_and_save(step, state)
                    meter.reset()
        return state

    def _finite_loss(self, done: _Pending) -> float:
        loss = float(done.metrics["loss"])
        if math.isfinite(loss):
            return loss
        ids = self._run.data.splits["train"].video_ids
        some = ", ".join(ids[i] for i in done.videos[:4])
        kept = self._checkpoints.steps
        raise UserError(
            f"the loss of step {done.step} is {loss} (batch of {some}, ...); lower "
            "config.optimizer.learning_rate or look at these videos; "
            + (
                f"the checkpoint of step {kept[-1]} is whole"
                if kept
                else "nothing saved"
            )
        )

    def _log(
        self, step: int, metrics: dict[str, jax.Array], figures: dict[str, float]
    ) -> None:
        rate = self._run.config.optimizer.learning_rate
        self._writer.write(
            step,
            loss=float(metrics["loss"]),
            learning_rate=rate * float(np.asarray(self._schedule(step - 1))),
            gradient_norm=float(metrics["gradient_norm"]),
            **figures,
        )

    def _validate_and_save(self, step: int, state: TrainState) -> None:
        run = self._run
        variables = merge(state.trainable, run.frozen)
        similarity = run.similarity(run.model, variables, "validation")
        figures = score(similarity, run.data.splits["validation"], run.config.ties)
        recalls = {
            f"validation_{way}_{name}": figures[way][name]
            for way in ("t2v", "v2t")
            for name in ("R@1", "R@5", "R@10")
        }
        orders = {
            f"validation_{name}": both_ways(figures[name])
            for name in ORDERS
            if name in figures
        }
        self._writer.write(step, **recalls, **orders)
        data = {"position": step, "seed": run.config.seed}
        self._checkpoints.save(step, state, data, recalls["validation_t2v_R@1"])
