"""Checkpoints: Orbax behind one door, with every array's fingerprint checked.

Orbax restores an array file with a flipped bit without a word, so each save keeps the
sha256 of every leaf, and what does not match is not restored: the step before is.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
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
from orbax.checkpoint import future as orbax_future

from data_pipelines.errors import UserError
from vop_jax.processes import from_main, is_main, largest, main_first, whole

SCORE = "score"
# How an attempt to restore can end; the worst of all processes is what counts.
_WHOLE, _DAMAGED, _MISTAKE = range(3)


class Restored(NamedTuple):
    """What a checkpoint gives back.

    Attributes:
        step: when it was saved.
        state: the tree of arrays.
        data: the JSON kept beside it.
    """

    step: int
    state: Any
    data: dict[str, Any]


def _score(metrics: dict[str, float]) -> float:
    return metrics[SCORE]


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


class DamageError(Exception):
    """What a checkpoint holds is not what was saved."""


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _kind(leaf: Any) -> str:
    """Type and shape; Orbax would cast another type without a word."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def fingerprints(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """The sha256 of each array's bytes, type and shape."""
    found = {}
    for name, value in arrays.items():
        digest = hashlib.sha256(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        found[name] = digest.hexdigest()
    return found


def _seal(notes: dict[str, Any]) -> str:
    """The notes as text, with the text's own sha256 in front."""
    text = json.dumps(notes)
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def _open_seal(sealed: str) -> dict[str, Any]:
    digest, _, text = sealed.partition("\n")
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise DamageError("its notes have changed")
    return json.loads(text)


class _NotesHandler(ocp.AsyncCheckpointHandler):
    """Writes a text that is still being made when the save begins."""

    _FILE = "notes"

    async def async_save(self, directory: epath.Path, args: "_SaveNotes"):
        async def write() -> None:
            text = args.text.result()
            if is_main():
                (directory / self._FILE).write_text(text)

        # It waits until Orbax has made the directory.
        return [orbax_future.CommitFutureAwaitingContractedSignals(write())]

    def save(self, directory: epath.Path, args: "_SaveNotes") -> None:
        raise NotImplementedError("only saved in the background")

    def restore(self, directory: epath.Path, args: "_RestoreNotes") -> str:
        return (directory / self._FILE).read_text()


@ocp.args.register_with_handler(_NotesHandler, for_save=True)
@dataclasses.dataclass
class _SaveNotes(ocp.args.CheckpointArgs):
    text: "concurrent.futures.Future[str]"


@ocp.args.register_with_handler(_NotesHandler, for_restore=True)
@dataclasses.dataclass
class _RestoreNotes(ocp.args.CheckpointArgs):
    pass


class Checkpoints:
    """The checkpoints of a run; every process has to call every method.

    Args:
        folder: Orbax's folder.
        keep: how many of the newest are kept; the best by score is kept besides.
        report: called with one line when a damaged checkpoint is passed over.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        *,
        keep: int = 2,
        report: Callable[[str], None] = print,
    ):
        # Orbax logs every error that it raises as well, and asyncio those of the other
        # arrays of a save that failed.
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
                # max_to_keep with a best function would delete the newest.
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(self._keep),
                        policies.BestN(get_metric_fn=_score, n=1),
                    ]
                ),
                # Without it the scores are not written, and a restart forgets them.
                best_fn=_score,
                enable_async_checkpointing=True,
                # What a killed process had half written.
                cleanup_tmp_directories=True,
            ),
        )

    def _drop_damaged_scores(self) -> None:
        """Removes scores that cannot be read, with which Orbax would not even start.

        A checkpoint without one is kept.
        """
        folders = self._folder.iterdir() if self._folder.exists() else ()
        for file in [x / "metrics" / "metrics" for x in folders if x.name.isdigit()]:
            try:
                if file.exists():
                    float(_score(json.loads(file.read_text())))
            except (ValueError, KeyError, TypeError):
                file.unlink()

    @property
    def steps(self) -> list[int]:
        """All committed steps, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, state: Any, data: dict[str, Any], score: float | None = None
    ) -> None:
        """Starts a save; the arrays may be changed as soon as this returns.

        That is when they are copied to the host; they are hashed and written after.

        Args:
            step: of the state; one that is saved already is left as it is.
            state: tree of arrays.
            data: JSON values to keep beside them.
            score: larger is better; None or a value that is not finite counts as the
                worst, since Orbax would drop the true best for a NaN.
        """
        if step in self._manager.all_steps():
            return
        worst = -math.inf
        score = score if score is not None and math.isfinite(score) else worst
        arrays = _arrays(state)
        # Copies: the next step takes the memory of the arrays themselves.
        values = {name: np.array(whole(leaf)) for name, leaf in arrays.items()}

        def notes() -> str:
            return _seal(
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

    def restore(self, like: Any) -> Restored | None:
        """The newest checkpoint that is whole; None where there is none at all.

        Newer ones that are damaged are moved to the folder `damaged` beside it, so that
        the run can save their steps again.

        Args:
            like: tree of arrays or `ShapeDtypeStruct`s with shardings: what is wanted
                and where it is to be placed.

        Raises:
            UserError: it is of another model, or all are damaged.
        """
        steps = self.steps
        damaged = []
        # Another process may see an older list of a shared folder.
        for _ in range(from_main(len(steps))):
            step = from_main(steps.pop() if steps else -1)
            outcome, found = self._attempt(step, like)
            worst = largest(outcome)
            if isinstance(found, UserError) and worst == _MISTAKE:
                raise found
            if worst == _MISTAKE:
                raise UserError("another process has stopped; its own error says why")
            if isinstance(found, Restored) and worst == _WHOLE:
                self._set_aside(damaged)
                return found
            why = found if isinstance(found, str) else "another process cannot read it"
            self._report(f"checkpoint {step} is damaged ({why}); trying the one before")
            damaged.append(step)
        if damaged:
            raise UserError(
                f"no checkpoint in {self._folder} is whole; remove the folder to start "
                "anew, or give another --workdir"
            )
        return None

    def _attempt(self, step: int, like: Any) -> tuple[int, Restored | UserError | str]:
        """How restoring a step ends on this process, and what comes of it."""
        try:
            return _WHOLE, self._restore(step, like)
        except UserError as error:
            return _MISTAKE, error
        except DamageError as error:
            return _DAMAGED, str(error)
        # Damage shows as any error at all from the layers below.
        except Exception as error:
            reason = str(error).splitlines()[0][:160] if str(error) else ""
            return _DAMAGED, f"{type(error).__name__}: {reason}"

    def _restore(self, step: int, like: Any) -> Restored:
        """One step, checked."""
        notes = _open_seal(
            self._manager.restore(step, args=ocp.args.Composite(notes=_RestoreNotes()))[
                "notes"
            ]
        )
        if notes["step"] != step:
            raise DamageError(f"it is that of step {notes['step']}")
        abstract, kinds = _arrays(like), notes["kinds"]
        if abstract.keys() != kinds.keys():
            raise UserError(
                f"checkpoint {step} in {self._folder} is of another model (it differs "
                f"in {min(abstract.keys() ^ kinds.keys())}); give another --workdir"
            )
        for name, leaf in abstract.items():
            if kinds[name] != _kind(leaf):
                raise UserError(
                    f"checkpoint {step} in {self._folder} holds {name} as "
                    f"{kinds[name]}, the model wants {_kind(leaf)}; give another "
                    "--workdir"
                )
        arrays = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )["state"]
        values = {name: whole(arrays[name]) for name in abstract}
        if fingerprints(values) != notes["sha256"]:
            raise DamageError("a fingerprint differs")
        leaves, tree = jax.tree_util.tree_flatten_with_path(like)
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
        """Blocks until the last save is committed; raises what went wrong in it."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases everything."""
        try:
            self._manager.wait_until_finished()
        finally:
            self._manager.close()
            self._hashing.shutdown()


def _arrays(state: Any) -> dict[str, Any]:
    """The leaves by their path: a form without empty nodes or named tuples."""
    return {
        _name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
