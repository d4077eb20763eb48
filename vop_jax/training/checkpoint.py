"""Checkpoints, saved with Orbax and verified by a sha256 of every array.

Orbax restores an array file with a flipped bit without an error, so each checkpoint
holds the sha256 of every leaf. A checkpoint that does not match is not restored; the
one before it is.
"""

import concurrent.futures
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, parse_json, read_bytes
from vop_jax.runtime.processes import from_main, largest, main_first, to_host
from vop_jax.training.fingerprints import (
    DamageError,
    _kind,
    _name,
    _RestoreNotes,
    _SaveNotes,
    fingerprints,
    open_seal,
    seal,
)

SCORE = "score"
# Outcomes of restoring a checkpoint; the worst one over all processes counts.
_COMPLETE, _DAMAGED, _MISTAKE = range(3)


class Restored(NamedTuple):
    """A restored checkpoint.

    Attributes:
        step: the step at which it was saved.
        state: the tree of arrays.
        data: the JSON values saved with them.
    """

    step: int
    state: Any
    data: dict[str, Any]


class Scores(TypedDict):
    """The metrics that Orbax saves with a checkpoint."""

    score: float


def _score(metrics: dict[str, float]) -> float:
    return metrics[SCORE]


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


class Checkpoints:
    """The checkpoints of a run; every process has to call every method.

    Args:
        folder: the folder that Orbax manages.
        keep: number of newest checkpoints to keep, in addition to the best by score.
        report: called with one line when a damaged checkpoint is skipped.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        *,
        keep: int = 2,
        report: Callable[[str], None] = print,
    ):
        # Orbax also logs every error that it raises, and asyncio those of the other
        # arrays of a failed save.
        absl.logging.get_absl_logger().addFilter(_not_from_orbax)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        self._folder, self._report = epath.Path(folder), report
        self._keep = keep
        self._manager = self._open()
        self._hashing = concurrent.futures.ThreadPoolExecutor(1, "sha256")

    def _open(self) -> ocp.CheckpointManager:
        main_first(self._drop_damaged_scores)
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                # `max_to_keep` together with `best_fn` would delete the newest.
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(self._keep),
                        policies.BestN(get_metric_fn=_score, n=1),
                    ]
                ),
                # Without it the scores are not written, and a resumed run lacks them.
                best_fn=_score,
                enable_async_checkpointing=True,
                # Removes what a killed process left half written.
                cleanup_tmp_directories=True,
            ),
        )

    def _drop_damaged_scores(self) -> None:
        """Removes unreadable scores, which would keep Orbax from opening the folder.

        A checkpoint without a score is kept.
        """
        folders = self._folder.iterdir() if self._folder.exists() else ()
        for file in [x / "metrics" / "metrics" for x in folders if x.name.isdigit()]:
            try:
                if file.exists():
                    values = parse_json(read_bytes(file).decode(), str(file), False)
                    score = described(values, Scores, str(file))[SCORE]
                    # Orbax would keep this one instead of the true best.
                    if math.isnan(score):
                        raise UserError(f"{file}: {SCORE} is not a number")
            except OSError as error:
                raise UserError(f"{file} cannot be read ({error.strerror})") from None
            except (UnicodeDecodeError, UserError):
                file.unlink()

    @property
    def steps(self) -> list[int]:
        """All committed steps, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, state: Any, data: dict[str, Any], score: float | None = None
    ) -> None:
        """Starts a save in the background.

        The arrays are copied to the host before this returns, so they may be changed
        or donated afterwards; hashing and writing happen in the background.

        Args:
            step: of the state; a step that is saved already is not saved again.
            state: tree of arrays.
            data: JSON values to save with them.
            score: larger is better; None or a value that is not finite counts as the
                worst, since Orbax would prefer a NaN to the true best.
        """
        if step in self._manager.all_steps():
            return
        worst = -math.inf
        score = score if score is not None and math.isfinite(score) else worst
        arrays = arrays_by_path(state)
        # Copies, because the next step donates the arrays.
        values = {name: np.array(to_host(leaf)) for name, leaf in arrays.items()}

        def notes() -> str:
            return seal(
                {
                    "step": step,
                    "data": data,
                    "sha256": fingerprints(values),
                    "kinds": {name: _kind(leaf) for name, leaf in values.items()},
                }
            )

        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays),
                notes=_SaveNotes(self._hashing.submit(notes)),
            ),
            metrics={SCORE: score},
        )
        if not saved:
            raise RuntimeError(f"checkpoint {step} was not saved")

    def restore(self, template: Any) -> Restored | None:
        """Restores the newest undamaged checkpoint; None if there are no checkpoints.

        Newer ones that are damaged are moved to the folder `damaged` next to it, so
        that the run can save their steps again.

        Args:
            template: tree of arrays or `ShapeDtypeStruct`s with shardings: the expected
                shapes and dtypes, and where to place the arrays.

        Raises:
            UserError: it belongs to another model, or all checkpoints are damaged.
        """
        steps = self.steps
        damaged = []
        # Another process may see an older list of a shared folder.
        for _ in range(from_main(len(steps))):
            step = from_main(steps.pop() if steps else -1)
            outcome, found = self._attempt(step, template)
            worst = largest(outcome)
            if isinstance(found, UserError) and worst == _MISTAKE:
                raise found
            if worst == _MISTAKE:
                raise UserError("another process has stopped; its own error says why")
            if isinstance(found, Restored) and worst == _COMPLETE:
                self._set_aside(damaged)
                return found
            why = found if isinstance(found, str) else "another process cannot read it"
            self._report(f"checkpoint {step} is damaged ({why}); trying the one before")
            damaged.append(step)
        if damaged:
            raise UserError(
                f"all checkpoints in {self._folder} are damaged; remove the folder to "
                "start again, or use another --workdir"
            )
        return None

    def _attempt(
        self, step: int, template: Any
    ) -> tuple[int, Restored | UserError | str]:
        """Restores a step on this process; the outcome, and the result or reason."""
        try:
            return _COMPLETE, self._restore(step, template)
        except UserError as error:
            return _MISTAKE, error
        except DamageError as error:
            return _DAMAGED, str(error)
        # Damage can raise any exception in Orbax or TensorStore.
        except Exception as error:
            reason = str(error).splitlines()[0][:160] if str(error) else ""
            return _DAMAGED, f"{type(error).__name__}: {reason}"

    def _restore(self, step: int, template: Any) -> Restored:
        """Restores and verifies one step."""
        # The notes first: they say what the arrays must be.
        notes = open_seal(
            self._manager.restore(step, args=ocp.args.Composite(notes=_RestoreNotes()))[
                "notes"
            ]
        )
        if notes["step"] != step:
            raise DamageError(f"it is that of step {notes['step']}")
        abstract, kinds = arrays_by_path(template), notes["kinds"]
        if abstract.keys() != kinds.keys():
            raise UserError(
                f"checkpoint {step} in {self._folder} is of another model (it differs "
                f"in {min(abstract.keys() ^ kinds.keys())}); use another --workdir"
            )
        for name, leaf in abstract.items():
            if kinds[name] != _kind(leaf):
                raise UserError(
                    f"checkpoint {step} in {self._folder} holds {name} as "
                    f"{kinds[name]}, but the model needs {_kind(leaf)}; use another "
                    "--workdir"
                )
        # Then the arrays, each compared with its fingerprint.
        arrays = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )["state"]
        values = {name: to_host(arrays[name]) for name in abstract}
        if fingerprints(values) != notes["sha256"]:
            raise DamageError("a fingerprint differs")
        leaves, tree = jax.tree_util.tree_flatten_with_path(template)
        state = jax.tree.unflatten(tree, [arrays[_name(path)] for path, _ in leaves])
        return Restored(step, state, notes["data"])

    def _set_aside(self, damaged: list[int]) -> None:
        if not damaged:
            return

        def move() -> None:
            aside = self._folder.parent / "damaged"
            aside.mkdir(parents=True, exist_ok=True)
            for step in damaged:
                target = aside / str(step)
                if target.exists():
                    target.rmtree()
                (self._folder / str(step)).rename(target)

        self._manager.close()
        main_first(move)
        self._manager = self._open()

    def wait(self) -> None:
        """Blocks until the last save is committed; raises the error if it failed."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and releases all resources."""
        try:
            self._manager.wait_until_finished()
        finally:
            self._manager.close()
            self._hashing.shutdown()


def arrays_by_path(state: Any) -> dict[str, Any]:
    """The leaves by path, without empty nodes or named tuples."""
    return {
        _name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
