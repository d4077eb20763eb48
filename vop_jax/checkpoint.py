"""Checkpoints: Orbax behind one door, with every array's fingerprint checked.

Orbax restores an array file with a flipped bit without a word, so each save keeps the
sha256 of every leaf, and what does not match is not restored: the step before is.
"""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from data_pipelines.errors import UserError

SCORE = "score"


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


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _kind(leaf: Any) -> str:
    """Type and shape; Orbax would cast another type without a word."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def fingerprints(state: Any) -> dict[str, str]:
    """The sha256 of each leaf's bytes, type and shape, by its path."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            # Another process holds a part; what this one holds is what it can check.
            leaf = np.concatenate(
                [
                    np.asarray(shard.data).reshape(-1)
                    for shard in leaf.addressable_shards
                ]
            )
        value = np.ascontiguousarray(np.asarray(leaf))
        digest = hashlib.sha256(f"{value.dtype}{value.shape}".encode())
        digest.update(value.tobytes())
        found[_name(path)] = digest.hexdigest()
    return found


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: Orbax's folder.
        keep: how many of the newest are kept; the best by score is kept besides.
        report: called with one line when a damaged checkpoint is passed over.
    """

    def __init__(
        self, folder: Path, *, keep: int = 2, report: Callable[[str], None] = print
    ):
        self._folder, self._report = folder, report
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                # max_to_keep with a best function would delete the newest.
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(keep),
                        policies.BestN(
                            get_metric_fn=lambda metrics: metrics[SCORE], n=1
                        ),
                    ]
                ),
                enable_async_checkpointing=True,
            ),
        )

    @property
    def steps(self) -> list[int]:
        """All committed steps, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, state: Any, data: dict[str, Any], score: float | None = None
    ) -> None:
        """Starts a save; the arrays may be changed as soon as this returns.

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
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_arrays(state)),
                data=ocp.args.JsonSave(data),
                meta=ocp.args.JsonSave(
                    {
                        "sha256": fingerprints(state),
                        "kinds": {k: _kind(x) for k, x in _arrays(state).items()},
                    }
                ),
            ),
            metrics={SCORE: score},
        )
        if not saved:
            raise RuntimeError(f"checkpoint {step} was not saved")

    def restore(self, like: Any) -> Restored | None:
        """The newest checkpoint that is whole; None where there is none at all.

        Args:
            like: tree of arrays or `ShapeDtypeStruct`s with shardings: what is wanted
                and where it is to be placed.

        Raises:
            UserError: it is of another model, or all are damaged.
        """
        steps = self.steps
        for step in reversed(steps):
            try:
                restored = self._restore(step, like)
            except UserError:
                raise
            # Damage shows as any error at all from the layers below.
            except Exception as error:
                reason = str(error).splitlines()[0][:160] if str(error) else ""
                self._report(
                    f"checkpoint {step} cannot be read "
                    f"({type(error).__name__}: {reason}); trying the one before"
                )
                continue
            if restored is not None:
                return restored
            self._report(
                f"checkpoint {step} is damaged (a fingerprint differs); trying the one "
                "before"
            )
        if steps:
            raise UserError(
                f"no checkpoint in {self._folder} is whole; remove the folder to start "
                "anew, or give another --workdir"
            )
        return None

    def _restore(self, step: int, like: Any) -> Restored | None:
        """One step, or None where a fingerprint differs."""
        notes = self._manager.restore(
            step,
            args=ocp.args.Composite(
                meta=ocp.args.JsonRestore(), data=ocp.args.JsonRestore()
            ),
        )
        expected = notes["meta"]["sha256"]
        abstract = _arrays(like)
        wanted = {_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)}
        if wanted != set(expected):
            differing = sorted(wanted ^ set(expected))
            raise UserError(
                f"checkpoint {step} in {self._folder} is of another model (it differs "
                f"in {differing[0]}); give another --workdir"
            )
        for name, leaf in abstract.items():
            kept, wanted = notes["meta"]["kinds"][name], _kind(leaf)
            if kept != wanted:
                raise UserError(
                    f"checkpoint {step} in {self._folder} holds {name} as {kept}, the "
                    f"model wants {wanted}; give another --workdir"
                )
        arrays = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )["state"]
        leaves, tree = jax.tree_util.tree_flatten_with_path(like)
        state = jax.tree.unflatten(tree, [arrays[_name(path)] for path, _ in leaves])
        if fingerprints(state) != expected:
            return None
        return Restored(step, state, notes["data"])

    def wait(self) -> None:
        """Blocks until the last save is committed; raises what went wrong in it."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases everything."""
        self._manager.wait_until_finished()
        self._manager.close()


def _arrays(state: Any) -> dict[str, Any]:
    """The leaves by their path: a form without empty nodes or named tuples."""
    return {
        _name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
