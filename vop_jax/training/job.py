"""The main job: evaluate CLIP without tuning, train, evaluate, export, report."""

import contextlib
import json
import time
from typing import Any

import numpy as np

from data_pipelines.console.terminal import say, table
from vop_jax.model.tree_paths import paths
from vop_jax.runtime.files import in_room, write_atomically
from vop_jax.runtime.processes import is_main, main_first, to_host
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.scoring.chance import against, drawn_intervals
from vop_jax.scoring.event_order import ORDERS, both_ways
from vop_jax.scoring.similarity import Similarity
from vop_jax.training.config import RunConfig
from vop_jax.training.loop import train
from vop_jax.training.report import examples, write_report
from vop_jax.training.run import Run, assemble
from vop_jax.training.scores import Scores
from vop_jax.weights.tuned import save_tuned
from vop_jax.weights.tuned_metadata import metadata_of


class _Clock:
    """Measures wall and CPU seconds of the job's parts."""

    def __init__(self):
        self.parts: dict[str, dict[str, float]] = {}
        self._last = time.perf_counter(), time.process_time()

    def part(self, name: str) -> None:
        """Ends a part of the job and records its time under a name."""
        now = time.perf_counter(), time.process_time()
        self.parts[name] = {
            kind: round(b - a, 2)
            for kind, a, b in zip(
                ("wall_seconds", "cpu_seconds"), self._last, now, strict=True
            )
        }
        self._last = now


def run_job(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """Trains and evaluates a configuration.

    Returns:
        The content of `results.json`.

    Raises:
        UserError: anything that a user can fix, such as a full disk or another process
            that works in the same folder.
    """
    with in_room(folder.path, config.data_dir), contextlib.ExitStack() as stack:
        folder.check_place()
        # The lock comes before any other work, and covers all processes of this run.
        main_first(lambda: stack.enter_context(folder.alone()))
        return _run_job(config, folder)


def _run_job(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    clock = _Clock()
    run = assemble(config, folder)
    scores = Scores(run)
    clock.part("prepare")
    if run.leaves:
        run.show_trained()
    untuned = scores.evaluate_untuned()
    clock.part("evaluate untuned")
    variables = train(run, scores)
    clock.part("train")
    similarity = untuned
    if run.leaves:
        similarity = scores.similarity(run.model, variables, "test")
        scores.record(config.method, similarity, run.trained_count)
    clock.part("evaluate tuned")
    leaves = trained_values(run, variables)
    if is_main():
        _write(run, scores, leaves, similarity, clock)
    return scores.results[config.method]


def trained_values(run: Run, variables: Any) -> dict[str, np.ndarray]:
    """The trained parameters by path, gathered from all processes."""
    flat, chosen = paths(variables), paths(run.mask)
    return {name: to_host(value) for name, value in flat.items() if chosen[name]}


def _write(
    run: Run,
    scores: Scores,
    leaves: dict[str, np.ndarray],
    similarity: np.ndarray | Similarity,
    clock: _Clock,
) -> None:
    config, folder = run.config, run.folder
    folder.start(config.as_json())
    if leaves:
        metadata = metadata_of(
            config.method,
            config.prompts,
            run.backbone.size.vision.layers,
            run.backbone.sha256,
            renormalize_video=config.renormalize_video,
        )
        save_tuned(folder.tuned, leaves, run.backbone.size, metadata)
    results = scores.results[config.method]
    write_report(
        folder,
        config=config.as_json(),
        results=scores.results,
        trained=run.leaves,
        shown=examples(similarity, run.data.splits["test"]),
    )
    clock.part("export and report")
    others = {k: v for k, v in scores.results.items() if k != config.method}
    write_atomically(
        folder.results,
        json.dumps(
            results
            | _chance(scores, config.method)
            | {"compared_with": others, "seconds": clock.parts}
            | {"data": run.data.provenance},
            indent=1,
        ),
    )
    _show(run, scores, clock)


def _chance(scores: Scores, name: str) -> dict[str, Any]:
    """How far a model's metrics, and their difference to CLIP's, may be chance."""
    own, untuned = scores.rankings[name], scores.rankings["zero_shot"]
    found: dict[str, Any] = {"intervals": drawn_intervals(own)}
    if own is not untuned:
        found["against_untuned"] = against(own, untuned)
        scores.results["zero_shot"]["intervals"] = drawn_intervals(untuned)
    return found


def _show(run: Run, scores: Scores, clock: _Clock) -> None:
    rows = []
    for name, figures in scores.results.items():
        t2v, v2t = figures["t2v"], figures["v2t"]
        cells = [t2v["R@1"], t2v["R@5"], t2v["R@10"], t2v["MdR"], v2t["R@1"]]
        cells += [both_ways(figures[order]) for order in ORDERS if order in figures]
        rows.append([name, *(f"{cell:.1f}" for cell in cells)])
    columns = ["", "t2v R@1", "R@5", "R@10", "MdR", "v2t R@1", "twins", "same end"]
    title = f"{run.config.dataset}, test split, {len(rows)} models"
    table(title, columns[: len(rows[0])], rows)
    table(
        "seconds",
        ["part", "wall", "CPU"],
        [
            [name, *(f"{x:.1f}" for x in took.values())]
            for name, took in clock.parts.items()
        ],
    )
    say(f"page: {run.folder.report}")
