"""The main job: train, evaluate, export, report."""

import json
import time
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.terminal import say, table
from vop_jax.config import RunConfig
from vop_jax.methods import paths
from vop_jax.metrics import ORDERS, both_ways
from vop_jax.processes import is_main, whole
from vop_jax.report import examples, write_report
from vop_jax.run import Run
from vop_jax.run_folder import RunFolder, is_full, write_atomically
from vop_jax.train import train
from vop_jax.tuned import metadata_of, save_tuned


class _Clock:
    """Wall and CPU seconds of the job's parts."""

    def __init__(self):
        self.parts: dict[str, dict[str, float]] = {}
        self._last = time.perf_counter(), time.process_time()

    def part(self, name: str) -> None:
        """Ends a part."""
        now = time.perf_counter(), time.process_time()
        self.parts[name] = {
            kind: round(b - a, 2)
            for kind, a, b in zip(
                ("wall_seconds", "cpu_seconds"), self._last, now, strict=True
            )
        }
        self._last = now


def run_job(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """Trains and evaluates a configuration; returns what `results.json` holds.

    Raises:
        UserError: anything of it that a user can mend, a full disk among it.
    """
    try:
        return _run_job(config, folder)
    except Exception as error:
        if isinstance(error, UserError) or not is_full(error):
            raise
        raise UserError(
            f"no room is left for {folder.path} or {config.data_dir}; make some and "
            "run the same command again, it goes on from the last whole checkpoint"
        ) from error


def _run_job(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    clock = _Clock()
    run = Run(config, folder)
    clock.part("prepare")
    if run.leaves:
        run.show_trained()
    untuned = run.evaluate_untuned()
    clock.part("evaluate untuned")
    variables = train(run)
    clock.part("train")
    similarity = untuned
    if run.leaves:
        similarity = run.similarity(run.model, variables, "test")
        run.record(config.method, similarity, run.trained_count)
    clock.part("evaluate tuned")
    leaves = _trained_values(run, variables)
    if is_main():
        _write(run, leaves, similarity, clock)
    return run.results[config.method]


def _trained_values(run: Run, variables: Any) -> dict[str, np.ndarray]:
    """What trained, by path; gathered, where several processes hold it."""
    flat, chosen = paths(variables), paths(run.mask)
    return {name: whole(value) for name, value in flat.items() if chosen[name]}


def _write(
    run: Run, leaves: dict[str, np.ndarray], similarity: np.ndarray, clock: _Clock
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
    results = run.results[config.method]
    write_report(
        folder,
        config=config.as_json(),
        results=run.results,
        trained=run.leaves,
        shown=examples(similarity, run.data.splits["test"]),
    )
    clock.part("export and report")
    others = {k: v for k, v in run.results.items() if k != config.method}
    write_atomically(
        folder.results,
        json.dumps(
            results
            | {"compared_with": others, "seconds": clock.parts}
            | {"data": run.data.provenance},
            indent=1,
        ),
    )
    _show(run, clock)


def _show(run: Run, clock: _Clock) -> None:
    rows = []
    for name, figures in run.results.items():
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
