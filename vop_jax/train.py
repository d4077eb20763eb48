"""The training loop: feed, step, check, log, save."""

import collections
import contextlib
import dataclasses
import hashlib
import math
import time
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
import optax
from etils import epath

from data_pipelines import terminal
from data_pipelines.errors import UserError
from data_pipelines.feed import TrainFeed
from data_pipelines.provenance import warn_of_difference
from data_pipelines.terminal import say, warn
from vop_jax.checkpoint import Checkpoints, Restored
from vop_jax.chips import peak_flops
from vop_jax.embedder import score
from vop_jax.flops import count_flops
from vop_jax.meter import Meter
from vop_jax.metrics import ORDERS, both_ways
from vop_jax.nan_policy import skip_unfinite
from vop_jax.optimizer import make_optimizer, rate_schedule
from vop_jax.preemption import Preempted, Preemption
from vop_jax.processes import is_main, main_first, one_at_a_time
from vop_jax.profiling import Profiler
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
from vop_jax.watchdog import Watchdog


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
        UserError: a loss that is not finite, a checkpoint of another model, backbone or
            data.
        Preempted: SIGTERM came, and the state is saved.
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
    main_first(lambda: folder.start(config.as_json()))
    if not folder.config.exists():
        raise UserError(
            f"{folder.path} is not what process 0 sees under that name; give a "
            "--workdir that all processes share"
        )
    checkpoints = Checkpoints(
        folder.checkpoints, keep=config.keep_checkpoints, report=warn
    )
    like = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        state,
        tree_shardings(run.mesh, state),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoints.close)
        origin = _origin(run)
        progress = _Progress(origin)
        restored = checkpoints.restore(like)
        if restored is not None:
            state = restored.state
            progress = _Progress.of(restored, origin, folder.checkpoints)
            say(f"going on from the checkpoint of step {restored.step} of {steps}")
        writer = None
        if is_main():
            writer = MetricsWriter(folder, progress.step)
            stack.callback(writer.close)
        loop = _Loop(run, feed, optimizer, checkpoints, writer, steps)
        state = loop.run(state, progress)
    return merge(state.trainable, run.frozen)


def _origin(run: Run) -> dict[str, Any]:
    """What the steps of a run follow from, besides its configuration."""
    train, ids = run.data.splits["train"], run.data.ids["train"]
    digest = hashlib.sha256("\n".join(train.video_ids).encode())
    digest.update(np.ascontiguousarray(ids).tobytes())
    digest.update(np.ascontiguousarray(train.caption_start).tobytes())
    return {
        "seed": run.config.seed,
        "backbone_sha256": run.backbone.sha256,
        "data_sha256": digest.hexdigest(),
        "provenance": run.data.provenance,
    }


@dataclasses.dataclass
class _Progress:
    """How far a run is: what a checkpoint keeps beside the state.

    Attributes:
        origin: see `_origin`.
        step: steps done, which is the position in the data as well.
        skipped: how many of them were left out since they were not finite.
        productive: seconds spent on the others.
    """

    origin: dict[str, Any]
    step: int = 0
    skipped: int = 0
    productive: float = 0.0

    @classmethod
    def of(
        cls, restored: Restored, origin: dict[str, Any], place: epath.Path
    ) -> "_Progress":
        """Of a checkpoint, whose origin has to be this run's."""
        data = dict(restored.data)
        kept = data.pop("origin")
        for name, what in (
            ("backbone_sha256", "another backbone than config.backbone holds now"),
            ("data_sha256", "other training data than config.data_dir holds now"),
            ("seed", "another seed"),
        ):
            if kept[name] != origin[name]:
                raise UserError(
                    f"the checkpoint of step {restored.step} in {place} was trained on "
                    f"{what}; put it back, or give another --workdir"
                )
        warn_of_difference(kept["provenance"], origin["provenance"])
        return cls(origin, **data)

    def as_json(self) -> dict[str, Any]:
        """What the checkpoint keeps."""
        return dataclasses.asdict(self)


class _Loop:
    """The steps of a run; holds what stays the same from one to the next."""

    def __init__(
        self,
        run: Run,
        feed: TrainFeed,
        optimizer: optax.GradientTransformation,
        checkpoints: Checkpoints,
        writer: MetricsWriter | None,
        steps: int,
    ):
        self._run, self._feed, self._steps = run, feed, steps
        self._checkpoints, self._writer = checkpoints, writer
        step = make_train_step(
            run.model,
            optimizer,
            run.mesh,
            micro_batch=run.config.micro_batch,
            loss_chunk=run.config.loss_chunk,
        )
        skip = run.config.nan_policy == "skip"
        self._step = skip_unfinite(step) if skip else step
        self._schedule = rate_schedule(run.config.optimizer, steps)
        self._peak = peak_flops(jax.devices()[0].device_kind)
        # The batches' shapes differ in the captions' length alone.
        self._flops: dict[int, float] = {}

    def run(self, state: TrainState, progress: _Progress) -> TrainState:
        """Runs the steps from where the progress is to the end."""
        run, config, steps = self._run, self._run.config, self._steps
        start, self._progress = progress.step, progress
        step_function = compile_train_step(self._step, run.mesh, state, run.frozen)
        self._meter = meter = Meter(
            config.batch_size,
            started=self._writer.started if self._writer else time.time(),
            productive=progress.productive,
            peak=self._peak,
        )
        profiler = Profiler(run.folder.tensorboard, config.profile_steps)
        pending: collections.deque[_Pending] = collections.deque()
        shown: dict[str, str] = {}
        left = (steps - start) * config.batch_size
        in_flight = 0 if one_at_a_time() else 1
        with (
            Watchdog(config.step_timeout) as watchdog,
            Preemption() as preemption,
            terminal.progress("training", total=left, unit="videos") as bar,
        ):
            batches = meter.waiting(self._feed.batches(start, steps))
            for step, batch in enumerate(batches, start + 1):
                profiler.before(step)
                inputs = {name: batch[name] for name in ("frames", "text_ids")}
                placed = put_batch(run.mesh, inputs)
                meter.count(self._flops_of(state, placed))
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, metrics = step_function(state, run.frozen, placed)
                pending.append(_Pending(step, metrics, batch["video"]))
                leaving = preemption.due(step)
                saving = step % config.save_every == 0 or step == steps
                settled = saving or leaving or profiler.last(step)
                # One step stays in flight so that the device need not wait; before a
                # save every loss has been looked at, so no bad state is ever saved.
                while len(pending) > (0 if settled else in_flight):
                    done = pending.popleft()
                    shown["loss"] = f"{self._checked_loss(done):.3f}"
                    watchdog.alive()
                    bar.advance(config.batch_size, **shown)
                if profiler.last(step):
                    profiler.stop()
                if step % config.log_every == 0 or step == steps:
                    figures = meter.figures()
                    shown["waiting"] = f"{figures['data_wait_fraction']:.0%}"
                    self._log(step, metrics, figures)
                    meter.end()
                if saving or leaving:
                    meter.end()
                    self._save(step, state, validate=saving and not leaving)
                    meter.begin()
                    watchdog.alive()
                if leaving:
                    self._leave(step)
            profiler.stop()
            # It may have come during the last validation.
            if preemption.due(steps):
                self._leave(steps)
        return state

    def _leave(self, step: int) -> NoReturn:
        self._checkpoints.wait()
        say(
            f"SIGTERM: step {step} of {self._steps} is saved; run the same command "
            "again to go on"
        )
        raise Preempted(step)

    def _flops_of(self, state: TrainState, batch: dict[str, jax.Array]) -> float:
        """One device's FLOPs of a step, counted where something can be made of them."""
        if self._peak is None:
            return 0.0
        length = batch["text_ids"].shape[1]
        if length not in self._flops:
            self._flops[length] = count_flops(
                self._step, state, self._run.frozen, batch
            )
        return self._flops[length]

    def _checked_loss(self, done: _Pending) -> float:
        """The loss of a step that changed the state; ends the run by the policy.

        A finite loss is not enough: its gradient may overflow all the same.
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
                    f"{what} (batch of {some}, ...); the step is left out, "
                    f"{progress.skipped} of config.nan_skips={config.nan_skips}"
                )
                return loss
            what += f", after {config.nan_skips} steps that were left out"
        kept = self._checkpoints.steps
        raise UserError(
            f"{what} (batch of {some}, ...); lower config.optimizer.learning_rate or "
            "look at these videos; "
            + (
                f"the checkpoint of step {kept[-1]} is whole"
                if kept
                else "nothing saved"
            )
        )

    def _log(
        self, step: int, metrics: dict[str, jax.Array], figures: dict[str, float]
    ) -> None:
        if self._writer is None:
            return
        rate = self._run.config.optimizer.learning_rate
        # A step that was left out has not moved the schedule.
        moved = step - 1 - self._progress.skipped
        self._writer.write(
            step,
            loss=float(metrics["loss"]),
            learning_rate=rate * float(np.asarray(self._schedule(max(moved, 0)))),
            gradient_norm=float(metrics["gradient_norm"]),
            **figures,
        )

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
        """Writes the recalls of the validation split; returns what is the best by."""
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
        if self._writer is not None:
            self._writer.write(step, **recalls, **orders)
        return recalls["validation_t2v_R@1"]
