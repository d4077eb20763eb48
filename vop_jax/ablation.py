"""A study on its way: the grid, the search for a learning rate, what is kept."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.terminal import say, warn
from vop_jax.config import RunConfig, check_config
from vop_jax.methods import find_method
from vop_jax.run import Run
from vop_jax.run_folder import RunFolder, read_metrics, write_atomically
from vop_jax.studies import Cell, Study, find_study
from vop_jax.train import train


def cell_config(
    cell: Cell,
    base: Callable[[str], dict[str, Any]],
    rate: float,
    seed: int,
    epochs: int = 0,
) -> RunConfig:
    """A cell's configuration.

    Args:
        cell: the cell.
        base: method -> a fresh configuration, which the cell changes.
        rate: factor on the method's learning rate.
        seed: of the run.
        epochs: instead of the base's; 0 leaves them.
    """
    values = base(cell.method)
    for field, value in cell.changes.items():
        *outer, last = field.split(".")
        target = values
        for name in outer:
            target = target[name]
        target[last] = value
    values["optimizer"]["learning_rate"] *= rate
    values["seed"] = seed
    values["epochs"] = epochs or values["epochs"]
    # One validation, at the end: the search compares finished runs.
    values["save_every"] = 10**9
    return check_config(values)


def run_once(config: RunConfig, folder: RunFolder, like: Run | None) -> dict[str, Any]:
    """Trains and scores a configuration, unless that has been done.

    Returns:
        The figures of `results.json`, those of the validation split under
        `validation`, `seconds_per_epoch` and `learning_rate`.
    """
    if folder.results.exists():
        folder.check(config.as_json())
        return json.loads(folder.results.read_text())
    run = Run(config, folder, like)
    variables = train(run)
    figures = {
        split: run.scored(
            config.method,
            run.similarity(run.model, variables, split),
            run.trained_count,
            split,
        )
        for split in ("test", "validation")
    }
    steps = [
        line["step_seconds"] for line in read_metrics(folder) if "step_seconds" in line
    ]
    seconds = float(np.median(steps)) * run.feed().steps_per_epoch if steps else 0.0
    results = figures["test"] | {
        "validation": figures["validation"],
        "seconds_per_epoch": seconds,
        "learning_rate": config.optimizer.learning_rate,
        "seed": config.seed,
    }
    folder.start(config.as_json())
    write_atomically(folder.results, json.dumps(results, indent=1))
    # A study is many runs; what they leave is their figures.
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    return results


def validation_score(results: dict[str, Any]) -> float:
    """What the search maximises: the mean of the recalls of both directions."""
    figures = results["validation"]
    return float(
        np.mean([figures[way][f"R@{k}"] for way in ("t2v", "v2t") for k in (1, 5, 10)])
    )


class Ablation:
    """A study on its way.

    Args:
        name: of the study.
        base: method -> the configuration that its cells change.
        output: the study's folder.
        seeds: of the final runs; the first is the search's as well.
        rates: factors on a method's learning rate that are tried.
        search_epochs: of the runs that try a rate; 0 means as many as the final ones
            have, of which the best rate's first is then one.
    """

    def __init__(
        self,
        name: str,
        base: Callable[[str], dict[str, Any]],
        output: Path,
        seeds: Sequence[int],
        rates: Sequence[float],
        search_epochs: int = 0,
    ):
        self.study: Study = find_study(name)
        self._base, self._output = base, output
        self._seeds, self._rates = seeds, rates
        self._search_epochs = search_epochs
        # Rates and seeds are no part of a program, so each cell compiles once.
        jax.config.update("jax_compilation_cache_dir", str((output / "xla").absolute()))
        # The backbone and the data, read once, and what an untuned CLIP reaches.
        first = cell_config(Cell("none", "zero_shot"), base, 1.0, seeds[0])
        self.untuned = Run(first, RunFolder(output / "untuned"))
        self.untuned.evaluate_untuned()
        layers = self.untuned.backbone.size.vision.layers
        self.cells = self.study.cells(layers)
        self.finished: dict[str, list[dict[str, Any]]] = {}
        self.failed: dict[str, str] = {}

    def run(self, report: Callable[[], None]) -> None:
        """Runs every cell; `report` is called after each."""
        for place, cell in enumerate(self.cells, 1):
            started = time.perf_counter()
            try:
                self.finished[cell.name] = self._cell(cell)
            # Whatever one cell dies of, the others are still worth having.
            except (UserError, ValueError, RuntimeError, OSError) as error:
                self.failed[cell.name] = " ".join(str(error).split())
                warn(f"{cell.name} failed: {self.failed[cell.name]}")
            else:
                self._say(cell, place, time.perf_counter() - started)
            report()

    def _cell(self, cell: Cell) -> list[dict[str, Any]]:
        seed = self._seeds[0]
        if not find_method(cell.method).trained:
            return [self._once(cell, 1.0, seed)]
        scores = {rate: self._score(cell, rate) for rate in self._rates}
        best = max(scores, key=scores.__getitem__)
        return [self._once(cell, best, seed) for seed in self._seeds]

    def _score(self, cell: Cell, rate: float) -> float:
        """A rate's score; one that makes the loss overflow is the worst there is."""
        if len(self._rates) == 1:
            return 0.0
        try:
            seed, epochs = self._seeds[0], self._search_epochs
            return validation_score(self._once(cell, rate, seed, epochs))
        except UserError as error:
            warn(f"{cell.name} at {rate} times its learning rate: {error}")
            return -np.inf

    def _once(
        self, cell: Cell, rate: float, seed: int, epochs: int = 0
    ) -> dict[str, Any]:
        config = cell_config(cell, self._base, rate, seed, epochs)
        name = f"rate{config.optimizer.learning_rate:.3g}_seed{seed}"
        if epochs:
            name += f"_epochs{epochs}"
        folder = RunFolder(self._output / "cells" / cell.name / name)
        return run_once(config, folder, self.untuned)

    def _say(self, cell: Cell, place: int, seconds: float) -> None:
        runs = self.finished[cell.name]
        recall = np.mean([x["t2v"]["R@1"] for x in runs])
        say(
            f"{place}/{len(self.cells)} {cell.name}: t2v R@1 {recall:.1f} over "
            f"{len(runs)} seeds, learning rate {runs[0]['learning_rate']:.3g}, "
            f"{seconds:.0f} s"
        )
