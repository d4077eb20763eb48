"""Runs a study: its grid of runs and the learning-rate search of every cell."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired

import jax
import numpy as np
from annotated_types import Ge, Le
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.console.interrupts import is_interrupted
from data_pipelines.console.names import pick
from data_pipelines.console.terminal import say, warn
from data_pipelines.files.json_files import described
from vop_jax.model.methods import find_method
from vop_jax.runtime.files import write_atomically
from vop_jax.runtime.metrics_log import read_metrics
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.scoring.bootstrap import Ranking, bootstrap_intervals
from vop_jax.scoring.directions import directions
from vop_jax.scoring.metrics import retrieval_counts
from vop_jax.scoring.similarity import Similarity
from vop_jax.study.cells import Cell, Study, find_study
from vop_jax.study.costs import Costs, costs_of
from vop_jax.study.rates import next_rate, validation_score
from vop_jax.training.config import ADDED_FIELDS, RunConfig, as_begun, check_config
from vop_jax.training.loop import train
from vop_jax.training.preflight import check_backbone
from vop_jax.training.run import Run, assemble, check_train
from vop_jax.training.scores import Scores

_Percent = Annotated[float, Ge(0), Le(100)]
Recalls = TypedDict("Recalls", {"R@1": _Percent, "R@5": _Percent, "R@10": _Percent})


class Order(TypedDict):
    """Accuracies in telling an order, of the demo's videos."""

    t2v: _Percent
    v2t: _Percent
    families: dict[str, _Percent]


class Directions(TypedDict):
    """Recalls of both directions."""

    t2v: Recalls
    v2t: Recalls


class CellResults(Directions):
    """What a study reads of a cell's `results.json`."""

    validation: Directions
    trainable_parameters: Annotated[int, Ge(0)]
    learning_rate: Annotated[float, Ge(0)]
    seconds_per_epoch: Annotated[float, Ge(0)]
    twins: NotRequired[Order]
    same_end: NotRequired[Order]
    # Not in results of older versions.
    intervals: NotRequired[dict[str, dict[str, list[float]]]]


def cell_config(
    cell: Cell,
    base: Callable[[str], dict[str, Any]],
    rate: float,
    seed: int,
    epochs: int = 0,
) -> RunConfig:
    """The configuration of one run of a cell.

    Args:
        cell: the cell.
        base: method -> a new default configuration, to which the cell's changes apply.
        rate: factor on the method's learning rate.
        seed: of the run.
        epochs: number of epochs; 0 means the default.
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


def run_once(
    config: RunConfig, folder: RunFolder, shared: Run | None
) -> dict[str, Any]:
    """Trains and scores a configuration, or returns the results of a finished run.

    Args:
        config: of the run.
        folder: of the run.
        shared: a run whose backbone and data are used again.

    Returns:
        The content of `results.json`: the metrics, those of the validation split under
        `validation`, `seconds_per_epoch` and `learning_rate`.
    """
    if folder.results.exists():
        folder.check(as_begun(config, folder).as_json(), added=ADDED_FIELDS)
        results = folder.read_results()
        described(results, CellResults, str(folder.results))
        return results
    # A cell's folder is a run's folder, which `main` may work in as well.
    with folder.alone():
        return _run_once(config, folder, shared)


def _run_once(
    config: RunConfig, folder: RunFolder, shared: Run | None
) -> dict[str, Any]:
    run = assemble(config, folder, shared)
    scores = Scores(run)
    variables = train(run, scores)
    similarities = {
        split: scores.similarity(run.model, variables, split)
        for split in ("test", "validation")
    }
    metrics = {
        split: scores.entry(config.method, similarity, run.trained_count, split)
        for split, similarity in similarities.items()
    }
    steps = [
        line["step_seconds"] for line in read_metrics(folder) if "step_seconds" in line
    ]
    seconds = float(np.median(steps)) * run.feed().steps_per_epoch if steps else 0.0
    results = metrics["test"] | {
        "validation": metrics["validation"],
        "intervals": test_intervals(similarities["test"], run),
        "seconds_per_epoch": seconds,
        "learning_rate": config.optimizer.learning_rate,
        "seed": config.seed,
        "epochs": config.epochs,
    }
    folder.start(run.config.as_json())
    write_atomically(folder.results, json.dumps(results, indent=1))
    # A study has many runs; only their results are kept.
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    return results


def test_intervals(
    similarity: np.ndarray | Similarity, run: Run
) -> dict[str, dict[str, list[float]]]:
    """The bootstrap interval of each metric of the test split, by direction."""
    right = run.data.splits["test"].video_of_caption
    found = directions(retrieval_counts(similarity, right), right, run.config.ties)
    rankings = [Ranking(way.ranks, way.video) for way in found.values()]
    intervals = zip(found, bootstrap_intervals(rankings), strict=True)
    return {way: {k: list(ends) for k, ends in x.items()} for way, x in intervals}


class _NotRunError(Exception):
    """A run that a cell needs is not finished, and the cell is not to be run."""


class StudyRuns:
    """The runs of a study and their results so far.

    Args:
        name: of the study.
        base: method -> the default configuration that its cells change.
        output: the study's folder.
        seeds: of the final runs; the first is also that of the search.
        rates: factors on a method's learning rate to search over.
        search_epochs: epochs of each learning-rate search run; 0 means the same as a
            final run, and the best rate's search run is then the first final run.
        widen: how often a search goes on beyond its range if the best rate is at an end
            of it.
        only: names of the cells to run; empty means all. Of the others those are read
            that are finished.

    Raises:
        UserError: `only` names a cell that is not there, the folder holds runs of other
            settings, or no cell can be trained.
    """

    def __init__(
        self,
        name: str,
        base: Callable[[str], dict[str, Any]],
        output: Path,
        seeds: Sequence[int],
        rates: Sequence[float],
        search_epochs: int = 0,
        widen: int = 0,
        only: Sequence[str] = (),
    ):
        self.study: Study = find_study(name)
        self._base, self._output = base, output
        self._seeds, self._rates = seeds, rates
        self._search_epochs, self._widen = search_epochs, widen
        first = cell_config(Cell("none", "zero_shot"), base, 1.0, seeds[0])
        self.epochs = first.epochs
        self.cells = self.study.cells(first.backbone_size().vision.layers)
        named = {cell.name: cell for cell in self.cells}
        self._chosen = [pick(named, x, f"cell of {name}") for x in only] or self.cells
        # Whether a run that is not finished is run, or its cell left out.
        self._runs_new = True
        self._check_earlier_runs()
        # Rates and seeds are not compiled into a program, so each cell compiles once.
        jax.config.update("jax_compilation_cache_dir", str((output / "xla").absolute()))
        # Read the backbone and the data once, and score CLIP without tuning.
        self._shared = assemble(first, self._folder("untuned"))
        scores = Scores(self._shared)
        self._check_cells()
        scores.evaluate_untuned()
        # CLIP without tuning, by name of what it sees of a video.
        self.untuned = scores.results
        self._found: dict[str, float] = {}
        self.costs: dict[str, Costs] = {}
        self.finished: dict[str, list[dict[str, Any]]] = {}
        self.failed: dict[str, str] = {}

    def _check_cells(self) -> None:
        """Checks, before anything runs, that at least one cell can be trained.

        Raises:
            UserError: none can; the error is that of the first cell.
        """
        mistakes = []
        for cell in self._chosen:
            try:
                config = cell_config(cell, self._base, 1.0, self._seeds[0])
                if config.row.trained:
                    check_train(config, self._shared.mesh.size, self._shared.data)
                    return
            except UserError as error:
                mistakes.append(error)
        if mistakes:
            raise mistakes[0]

    @property
    def searches(self) -> bool:
        """Whether learning rates are chosen, or those of the methods taken."""
        return len(self._rates) > 1

    def _folder(self, *names: str) -> RunFolder:
        return RunFolder(self._output.joinpath(*names), "--output")

    def _check_earlier_runs(self) -> None:
        """Checks, before anything runs, that all runs in the folder are of this study.

        A table of runs with different settings would compare nothing; a run that was
        refused one by one would leave a table without it.

        Raises:
            UserError: a run differs in more than its rate and seed.
        """
        for cell in self.cells:
            found = sorted(self._output.glob(f"cells/{cell.name}/*/config.json"))
            for folder in (self._folder(*x.parts[-4:-1]) for x in found):
                free = ["seed", "optimizer.learning_rate"]
                # A search may be shorter.
                free += ["epochs"] if "_epochs" in folder.path.name else []
                config = cell_config(cell, self._base, 1.0, self._seeds[0])
                values = as_begun(config, folder).as_json()
                folder.check(values, free, ADDED_FIELDS)

    def measure_costs(self) -> None:
        """Measures what the cells cost, if the study compares that.

        A cell that does not fit the backbone has no costs; its run says why.
        """
        fitting = {}
        for cell in self.cells if self.study.costs_of else ():
            try:
                config = cell_config(cell, self._base, 1.0, self._seeds[0])
                check_backbone(config, self._shared.backbone.size)
            except UserError:
                continue
            fitting[cell.name] = config
        if self.study.costs_of in fitting:
            self.costs = costs_of(fitting, self._shared, self.study.costs_of)

    def run(self, report: Callable[[], None]) -> None:
        """Runs every chosen cell; `report` is called after each."""
        for cell in self.cells:
            started = time.perf_counter()
            self._runs_new = cell in self._chosen
            try:
                self.finished[cell.name] = self._cell(cell)
            except _NotRunError:
                continue
            # The other cells continue when one fails.
            except (UserError, ValueError, RuntimeError, OSError) as error:
                if is_interrupted():
                    raise
                self.failed[cell.name] = " ".join(str(error).split())
                warn(f"{cell.name} failed: {self.failed[cell.name]}")
            else:
                if self._runs_new:
                    self._say(cell, time.perf_counter() - started)
            report()

    def _cell(self, cell: Cell) -> list[dict[str, Any]]:
        seed = self._seeds[0]
        if not find_method(cell.method).trained:
            return [self._once(cell, 1.0, seed)]
        best = self._best_rate(cell)
        return [self._once(cell, best, seed) for seed in self._seeds]

    def _best_rate(self, cell: Cell) -> float:
        """The factor on the cell's learning rate that its search finds, or another's.

        Searched once, also where other cells take it.
        """
        if cell.rate_of:
            other = next(x for x in self.cells if x.name == cell.rate_of)
            # The rate itself is taken, and the defaults may differ.
            own, others = (
                self._base(x.method)["optimizer"]["learning_rate"]
                for x in (cell, other)
            )
            return self._best_rate(other) * (others / own)
        if cell.name not in self._found:
            scores = {rate: self._score(cell, rate) for rate in self._rates}
            for _ in range(self._widen):
                beyond = next_rate(scores)
                if beyond is None:
                    break
                scores[beyond] = self._score(cell, beyond)
            self._found[cell.name] = max(scores, key=scores.__getitem__)
        return self._found[cell.name]

    def _score(self, cell: Cell, rate: float) -> float:
        """A rate's validation score; -inf if its run fails, as by a loss overflow."""
        if not self.searches:
            return 0.0
        try:
            seed, epochs = self._seeds[0], self._search_epochs
            return validation_score(self._once(cell, rate, seed, epochs))
        except UserError as error:
            if is_interrupted():
                raise
            warn(f"{cell.name} at {rate} times its learning rate: {error}")
            return -np.inf

    def _once(
        self, cell: Cell, rate: float, seed: int, epochs: int = 0
    ) -> dict[str, Any]:
        config = cell_config(cell, self._base, rate, seed, epochs)
        name = f"rate{config.optimizer.learning_rate:.3g}_seed{seed}"
        if epochs:
            name += f"_epochs{epochs}"
        folder = self._folder("cells", cell.name, name)
        if not (self._runs_new or folder.results.exists()):
            raise _NotRunError
        return run_once(config, folder, self._shared)

    def _say(self, cell: Cell, seconds: float) -> None:
        runs = self.finished[cell.name]
        recall = np.mean([x["t2v"]["R@1"] for x in runs])
        seeds = f"over {len(runs)} seeds, " if len(runs) > 1 else ""
        rate = f"learning rate {runs[0]['learning_rate']:.3g}, "
        say(
            f"{self._chosen.index(cell) + 1}/{len(self._chosen)} {cell.name}: "
            f"t2v R@1 {recall:.1f} {seeds}"
            f"{rate if find_method(cell.method).trained else ''}{seconds:.0f} s"
        )
