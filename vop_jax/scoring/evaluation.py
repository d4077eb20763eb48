"""All metrics of a similarity matrix: intervals, tie policies, hub corrections."""

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.console.terminal import table
from vop_jax.scoring import time_order
from vop_jax.scoring.bootstrap import (
    LEVEL,
    Intervals,
    Ranking,
    bootstrap_intervals,
)
from vop_jax.scoring.comparison import OtherRanks, as_json, compare, show
from vop_jax.scoring.counts import Counts, count_corrected
from vop_jax.scoring.directions import Direction, directions
from vop_jax.scoring.event_order import ORDERS
from vop_jax.scoring.hub_corrections import Correction, dual_softmax, querybank_norm
from vop_jax.scoring.metrics import by_direction, summary
from vop_jax.scoring.permutation import Difference
from vop_jax.scoring.similarity import Similarity
from vop_jax.scoring.ties import TIES


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """A similarity matrix and how it is to be scored.

    Attributes:
        title: heading of the tables.
        similarity: of texts (rows) with videos (columns).
        video_of_text: the correct video of each text.
        counts: of the matrix, which all metrics follow from, by direction.
        results: the metrics of `results.json`, which are printed first.
        ties: the tie policy, see `vop_jax.scoring.metrics`.
        texts: the captions, if known.
        video_ids: of the videos, if known.
        temperature: of DSL; None means no DSL.
        bank: similarities of other texts with the videos, for QB-Norm.
        video_bank: similarities of the texts with other videos, for QB-Norm.
        beta: of QB-Norm.
        resamples: number of bootstrap samples, and of permutations.
        seed: of the bootstrap samples, and of the permutations.
        against: the ranks of another model to compare with.
    """

    title: str
    similarity: Float[np.ndarray, "T V"] | Similarity
    video_of_text: Int[np.ndarray, "T"]
    counts: dict[str, Counts]
    results: dict[str, Any]
    ties: str = "mean"
    texts: list[str] | None = None
    video_ids: list[str] | None = None
    temperature: float | None = None
    bank: Float[np.ndarray, "B V"] | None = None
    video_bank: Float[np.ndarray, "T B"] | None = None
    beta: float = 20.0
    resamples: int = 1000
    seed: int = 0
    against: OtherRanks | None = None

    @cached_property
    def ways(self) -> dict[str, Direction]:
        """The ranks by direction."""
        return directions(self.counts, self.video_of_text, self.ties)

    @property
    def intervals(self) -> dict[str, Intervals]:
        """The interval of every metric, by direction."""
        return self._intervals[""]

    @cached_property
    def by_ties(self) -> dict[str, dict[str, dict[str, float]]]:
        """The metrics under each tie policy, by direction."""
        return {ties: by_direction(self.counts, ties) for ties in TIES}

    @cached_property
    def tied(self) -> dict[str, int]:
        """By direction, the queries with a candidate as similar as the correct one."""
        return {way: int((x.tied > 0).sum()) for way, x in self.counts.items()}

    @cached_property
    def corrected(self) -> dict[str, dict[str, Any]]:
        """The constants, metrics and intervals of each hub correction."""
        found: dict[str, dict[str, Any]] = {}
        for name, (constants, ways) in self._corrected.items():
            found[name] = {"intervals": self._intervals[name], **constants}
            for way, ranks in ways.items():
                found[name][way] = summary(ranks.ranks)
        return found

    @cached_property
    def compared(self) -> dict[str, dict[str, Difference]]:
        """The differences to the other model's metrics, if there is one."""
        if self.against is None:
            return {}
        texts, videos = self.similarity.shape
        # The best texts of the videos are ranked for v2t, all texts beside it.
        asked = len(np.unique(self.video_of_text))
        return compare(
            self.ranks_as_json(),
            self.ways,
            self.against,
            candidates={"t2v": videos, "v2t": asked, "v2t_best_caption": texts},
            permutations=self.resamples,
            seed=self.seed,
        )

    def as_json(self) -> dict[str, Any]:
        """All metrics as JSON values."""
        drawing = {"level": LEVEL, "resamples": self.resamples, "seed": self.seed}
        return {
            **self.results,
            "ties": self.ties,
            # The denominator of the recalls; with clip4clip more than the queries.
            "counted": {way: len(found.ranks) for way, found in self.ways.items()},
            "intervals": drawing | self.intervals,
            "tied_queries": self.tied,
            "by_ties": self.by_ties,
            "corrected": self.corrected,
            **self._compared_as_json(),
        }

    def ranks_as_json(self) -> dict[str, Any]:
        """The rank of every query; with clip4clip the list of its ranks."""
        content: dict[str, Any] = {"ties": self.ties}
        for way, found in self.ways.items():
            content[way] = [float(rank) for rank in found.ranks]
            if self.ties == "clip4clip":
                starts = np.flatnonzero(np.diff(found.query, prepend=-1))
                parts = np.split(found.ranks, starts[1:])
                content[way] = [[float(rank) for rank in part] for part in parts]
        if self.texts is not None:
            content["t2v_queries"] = self.texts
        # Videos without ids are identified by their column.
        names = self.video_ids or list(range(self.similarity.shape[1]))
        content["t2v_videos"] = [names[video] for video in self.video_of_text]
        content["v2t_queries"] = [
            names[video] for video in np.unique(self.ways["v2t"].query)
        ]
        return content

    def show(self) -> None:
        """Prints the tables."""
        # Before the first table, so that files that do not fit are the only output.
        corrected, compared = self.corrected, self.compared
        texts, videos = self.similarity.shape
        columns = ["", *summary(np.ones(1))]
        rows = [
            [way, *_cells(self.results[way], found)]
            for way, found in self.intervals.items()
        ]
        size = f"{texts} texts, {videos} videos"
        title = f"{self.title}: {size}, ties={self.ties}, {LEVEL}% intervals"
        table(title, columns, rows)
        self._show_orders()
        if "time_order" in self.results:
            time_order.show(self.results["time_order"], self.results)
        rows = [
            [f"{way} {name}", *_cells(entry[way], found)]
            for name, entry in corrected.items()
            for way, found in entry["intervals"].items()
        ]
        if rows:
            table(f"corrected for hubs by {self._constants()}", columns, rows)
        if any(self.tied.values()):
            rows = [
                [f"{way} {ties}", *(f"{x:.1f}" for x in figures[way].values())]
                for way in self.tied
                for ties, figures in self.by_ties.items()
            ]
            tied = ", ".join(f"{count} {way}" for way, count in self.tied.items())
            table(f"tied queries: {tied}", columns, rows)
        if self.against is not None:
            show(compared, self.against.where)

    def _compared_as_json(self) -> dict[str, Any]:
        if self.against is None:
            return {}
        found = as_json(self.compared, self.resamples, self.against.where)
        return {"against": found}

    def _show_orders(self) -> None:
        rows = [
            [
                ORDERS[name],
                *(f"{self.results[name][way]:.1f}" for way in ("t2v", "v2t")),
            ]
            for name in ORDERS
            if name in self.results
        ]
        if rows:
            table("order, chance is 50", ["", "t2v", "v2t"], rows)

    def _constants(self) -> str:
        """The names of the corrections with their constants."""
        said = []
        for name, entry in self.corrected.items():
            constants = (x for x in entry.items() if not isinstance(x[1], dict))
            said.append(f"{name} ({', '.join(f'{k} {v:g}' for k, v in constants)})")
        return ", ".join(said)

    @cached_property
    def _corrected(self) -> dict[str, tuple[dict[str, float], dict[str, Direction]]]:
        """The constants and the ranks by direction of each hub correction."""
        found: dict[str, tuple[dict[str, float], dict[str, Direction]]] = {}
        for name, constants, way, correction in self._corrections():
            entry = found.setdefault(name, ({}, {}))
            entry[0].update(constants)
            # A correction for one direction does not apply to the other.
            counts = count_corrected(correction, self.video_of_text, way)
            entry[1].update(directions(counts, self.video_of_text, self.ties))
        return found

    @cached_property
    def _intervals(self) -> dict[str, dict[str, Intervals]]:
        """The intervals by correction, "" for none, and direction."""
        ways = {"": self.ways} | {name: x for name, (_, x) in self._corrected.items()}
        rankings = [
            Ranking(found.ranks, found.video)
            for entry in ways.values()
            for found in entry.values()
        ]
        intervals = iter(
            bootstrap_intervals(rankings, resamples=self.resamples, seed=self.seed)
        )
        return {
            name: {way: next(intervals) for way in entry}
            for name, entry in ways.items()
        }

    def _corrections(
        self,
    ) -> Iterator[tuple[str, dict[str, float], str, Correction]]:
        """Each correction's name, constants, direction and similarity."""
        similarity, beta = self.similarity, self.beta
        if isinstance(similarity, Similarity):
            return
        if self.temperature is not None:
            constants = {"temperature": self.temperature}
            yield "DSL", constants, "t2v", dual_softmax(similarity, self.temperature)
            changed = dual_softmax(similarity.T, self.temperature)
            yield "DSL", constants, "v2t", changed
        if self.bank is not None:
            changed = querybank_norm(similarity, self.bank, beta)
            yield "QB-Norm", {"beta": beta, "bank": len(self.bank)}, "t2v", changed
        if self.video_bank is not None:
            others = self.video_bank.T
            changed = querybank_norm(similarity.T, others, beta)
            constants = {"beta": beta, "video_bank": len(others)}
            yield "QB-Norm", constants, "v2t", changed


def _cells(
    figures: dict[str, float], intervals: dict[str, tuple[float, float]]
) -> list[str]:
    """Metrics with their intervals, as table cells."""
    return [
        f"{figures[name]:.1f} [{low:.1f}, {high:.1f}]"
        for name, (low, high) in intervals.items()
    ]
