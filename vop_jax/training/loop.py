"""The training loop: resume, step, check the loss, log, validate, save."""

import collections
import contextlib
import math
import time
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
import optax

from data_pipelines.console import terminal
from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import say, warn
from data_pipelines.feeding.feed import TrainFeed
from vop_jax.devices.chips import peak_flops
from vop_jax.devices.flops import count_flops
from vop_jax.devices.mesh import put_batch, put_tree, tree_shardings
from vop_jax.optimization.nan_policy import skip_non_finite_steps
from vop_jax.optimization.optimizer import make_optimizer, rate_schedule
from vop_jax.optimization.train_step import (
    INPUTS,
    TrainState,
    compile_train_step,
    initial_state,
    make_train_step,
    merge,
)
from vop_jax.runtime.exit_status import INTERRUPTED
from vop_jax.runtime.metrics_log import MetricsWriter
from vop_jax.runtime.preemption import Preempted, Preemption
from vop_jax.runtime.processes import is_main, main_first, one_at_a_time
from vop_jax.runtime.watchdog import Watchdog
from vop_jax.scoring.event_order import ORDERS, both_ways
from vop_jax.training.checkpoint import Checkpoints
from vop_jax.training.meter import Meter
from vop_jax.training.profiling import Profiler
from vop_jax.training.progress import Progress, origin_of
from vop_jax.training.run import Run
from vop_jax.training.scores import Scores


class _Pending(NamedTuple):
    """A dispatched step whose loss has not been checked yet."""

    step: int
    metrics: dict[str, jax.Array]
    videos: np.ndarray


def train(run: Run, scores: Scores | None = None) -> Any:
    """Trains a run from its last checkpoint, or from the start.

    Args:
        run: the run.
        scores: of the run, whose compiled programs the validation uses as well.

    Returns:
        The variable tree, on the run's mesh.

    Raises:
        UserError: the loss is not finite, or the checkpoint is of another model,
            backbone or data set.
        Preempted: SIGTERM or Ctrl-C was received, and the state is saved.
    """
    if not run.leaves:
        return run.frozen
    config, folder = run.config, run.folder
    # The state before the first step, placed on the mesh.
    feed = run.feed()
    steps = config.epochs * feed.steps_per_epoch
    optimizer = make_optimizer(config.optimizer, run.trainable, steps)
    rate = config.optimizer.learning_rate
    state = jax.jit(lambda tree: initial_state(tree, optimizer, rate))(run.trainable)
    state = put_tree(run.mesh, jax.device_get(state))
    # Process 0 creates the folder; the others must see it.
    main_first(lambda: folder.start(config.as_json()))
    if not folder.config.exists():
        raise UserError(
            f"{folder.path} is not what process 0 sees under that name; use a "
            "--workdir that all processes share"
        )
    checkpoints = Checkpoints(
        folder.checkpoints, keep=config.keep_checkpoints, report=warn
    )
    template = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        state,
        tree_shardings(run.mesh, state),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoints.close)
        origin = origin_of(run)
        progress = Progress(origin)
        restored = checkpoints.restore(template)
        if restored is not None:
            state = restored.state
            progress = Progress.of(restored, origin, folder.checkpoints)
            say(f"resuming from the checkpoint of step {restored.step} of {steps}")
        writer = None
        if is_main():
            writer = MetricsWriter(folder, progress.step)
            stack.callback(writer.close)
        loop = _Loop(
            run, scores or Scores(run), feed, optimizer, checkpoints, writer, steps
        )
        state = loop.run(state, progress)
    return merge(state.trainable, run.frozen)


class _Loop:
    """The steps of a run, with what does not change from one step to the next."""

    def __init__(
        self,
        run: Run,
        scores: Scores,
        feed: TrainFeed,
        optimizer: optax.GradientTransformation,
        checkpoints: Checkpoints,
        writer: MetricsWriter | None,
        steps: int,
    ):
        self._run, self._scores, self._feed, self._steps = run, scores, feed, steps
        self._checkpoints, self._writer = checkpoints, writer
        step = make_train_step(
            run.model,
            optimizer,
            run.mesh,
            loss=run.config.loss,
            micro_batch=run.config.micro_batch,
            loss_chunk=run.config.loss_chunk,
            alignment=run.config.alignment,
        )
        skip = run.config.nan_policy == "skip"
        self._step = skip_non_finite_steps(step) if skip else step
        self._schedule = rate_schedule(run.config.optimizer, steps)
        self._peak = peak_flops(jax.devices()[0].device_kind)
        # FLOPs by caption length, the only size that differs between batches.
        self._flops: dict[int, float] = {}
        # Steps whose losses are not checked yet, and what the progress bar shows.
        self._pending: collections.deque[_Pending] = collections.deque()
        self._shown: dict[str, str] = {}

    def run(self, state: TrainState, progress: Progress) -> TrainState:
        """Runs the steps from `progress.step` to the end of the run."""
        run, config, steps = self._run, self._run.config, self._steps
        start, self._progress = progress.step, progress
        self._compiled = compile_train_step(self._step, run.mesh, state, run.frozen)
        self._meter = Meter(
            config.batch_size,
            started=self._writer.started if self._writer else time.time(),
            productive=progress.productive,
            peak=self._peak,
        )
        profiler = Profiler(run.folder.tensorboard, config.profile_steps)
        in_flight = 0 if one_at_a_time() else 1
        if start < steps:
            terminal.inform("compiling the train step")
        with (
            Watchdog(config.step_timeout) as watchdog,
            Preemption() as preemption,
            terminal.progress(
                "training", total=(steps - start) * config.batch_size, unit="videos"
            ) as bar,
        ):
            batches = self._meter.waiting(self._feed.batches(start, steps))
            for step, batch in enumerate(batches, start + 1):
                profiler.before(step)
                state = self._dispatch(step, state, batch)
                # Before a save every loss is checked, so that no bad state is saved.
                leaving = preemption.due(step)
                saving = step % config.save_every == 0 or step == steps
                settled = saving or leaving or profiler.last(step)
                self._check_losses(0 if settled else in_flight, watchdog, bar)
                if profiler.last(step):
                    profiler.stop()
                if step % config.log_every == 0 or step == steps:
                    self._log(step)
                if leaving:
                    terminal.inform(f"asked to end: saving step {step} ...")
                if saving or leaving:
                    # This time does not count as training.
                    self._meter.end()
                    self._save(step, state, validate=saving and not leaving)
                    self._meter.begin()
                    watchdog.alive()
                if leaving:
                    self._leave(step, preemption)
            profiler.stop()
            # The signal may have come during the last validation.
            if preemption.due(steps):
                self._leave(steps, preemption)
        return state

    # The parts of a step.

    def _dispatch(
        self, step: int, state: TrainState, batch: dict[str, np.ndarray]
    ) -> TrainState:
        """Starts a step, whose result the host does not wait for."""
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        placed = put_batch(self._run.mesh, inputs)
        self._meter.count(self._flops_of(state, placed))
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, self._metrics = self._compiled(state, self._run.frozen, placed)
        self._pending.append(_Pending(step, self._metrics, batch["video"]))
        return state

    def _check_losses(
        self, in_flight: int, watchdog: Watchdog, bar: terminal.Bar
    ) -> None:
        """Waits for the losses of all steps but the newest, and checks them.

        Args:
            in_flight: number of steps that are not waited for, so that the device
                always has one to work on.
            watchdog: told that a step is done.
            bar: shows it.
        """
        while len(self._pending) > in_flight:
            done = self._pending.popleft()
            self._shown["loss"] = f"{self.checked_loss(done):.3f}"
            watchdog.alive()
            bar.advance(self._run.config.batch_size, **self._shown)

    def _leave(self, step: int, preemption: Preemption) -> NoReturn:
        self._checkpoints.wait()
        status = preemption.status()
        why = "Ctrl-C" if status == INTERRUPTED else "SIGTERM"
        say(
            f"{why}: step {step} of {self._steps} is saved; run the same command "
            "again to resume"
        )
        raise Preempted(step, status)

    def _flops_of(self, state: TrainState, batch: dict[str, jax.Array]) -> float:
        """One device's FLOPs of a step; 0 if the device's peak FLOP/s is unknown."""
        if self._peak is None:
            return 0.0
        length = batch["text_ids"].shape[1]
        if length not in self._flops:
            self._flops[length] = count_flops(
                self._step, state, self._run.frozen, batch
            )
        return self._flops[length]

    def checked_loss(self, done: _Pending) -> float:
        """Waits for a step's loss and applies `config.nan_policy` if it is not finite.

        The gradient is checked as well: it may overflow where the loss is finite.

        Returns:
            The loss.

        Raises:
            UserError: it is not finite, and the policy ends the run.
        """
        loss, norm = (float(done.metrics[x]) for x in ("loss", "gradient_norm"))
        if math.isfinite(loss) and math.isfinite(norm):
            return loss
        what = (
            f"the loss of step {done.step} is {loss}"
            if not math.isfinite(loss)
            else f"the gradient of step {done.step} has the norm {norm}"
        )
        ids = self._run.data.splits["train"].video_ids
        some = ", ".join(ids[i] for i in done.videos[:4])
        config, progress = self._run.config, self._progress
        if config.nan_policy == "skip":
            self._meter.lose()
            progress.skipped += 1
            if progress.skipped <= config.nan_skips:
                warn(
                    f"{what} (batch of {some}, ...); the update is skipped, "
                    f"{progress.skipped} of config.nan_skips={config.nan_skips}"
                )
                return loss
            what += f", after {config.nan_skips} skipped updates"
        kept = self._checkpoints.steps
        raise UserError(
            f"{what} (batch of {some}, ...); lower config.optimizer.learning_rate or "
            "look at these videos; "
            + (
                f"the checkpoint of step {kept[-1]} is kept"
                if kept
                else "no checkpoint was saved"
            )
        )

    def _log(self, step: int) -> None:
        """Writes the newest metrics and the measurements since the last line."""
        measured = self._meter.measurements()
        self._shown["waiting"] = f"{measured['data_wait_fraction']:.0%}"
        if self._writer is not None:
            rate = self._run.config.optimizer.learning_rate
            # A skipped update does not advance the schedule.
            moved = step - 1 - self._progress.skipped
            self._writer.write(
                step,
                loss=float(self._metrics["loss"]),
                learning_rate=rate * float(np.asarray(self._schedule(max(moved, 0)))),
                gradient_norm=float(self._metrics["gradient_norm"]),
                **measured,
            )
        self._meter.end()

    def _save(self, step: int, state: TrainState, *, validate: bool) -> None:
        progress = self._progress
        progress.step, progress.productive = step, self._meter.productive
        score = self._validate(step, state) if validate else None
        before = time.perf_counter()
        self._checkpoints.save(step, state, progress.as_json(), score)
        if self._writer is not None:
            blocked = time.perf_counter() - before
            self._writer.write(step, save_seconds=blocked)

    def _validate(self, step: int, state: TrainState) -> float:
        """Logs the metrics of the validation split; returns the checkpoint's score."""
        run = self._run
        variables = merge(state.trainable, run.frozen)
        similarity = self._scores.similarity(run.model, variables, "validation")
        figures = self._scores.metrics(similarity, "validation")
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
        if self._writer is not None:
            self._writer.write(step, **recalls, **orders)
        return recalls["validation_t2v_R@1"]
