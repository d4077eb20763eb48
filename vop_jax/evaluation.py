"""All figures of one similarity matrix: metrics, intervals, ties, corrections."""

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.terminal import table
from vop_jax.intervals import LEVEL, bootstrap_intervals
from vop_jax.metrics import ORDERS, TIES, ranks, summary, video_ranks
from vop_jax.rescoring import dual_softmax, querybank_norm


class Direction(NamedTuple):
    """One direction's ranks.

    Attributes:
        ranks: of the queries; with `clip4clip` a query has one for each tie.
        query: the number of the text or the video that each rank is of.
        video: what each rank's query belongs to, for the intervals.
    """

    ranks: Float[np.ndarray, "R"]
    query: Int[np.ndarray, "R"]
    video: Int[np.ndarray, "R"]


def _ranks(
    similarity: Float[np.ndarray, "T V"], right: Int[np.ndarray, "T"], ties: str
) -> dict[str, Float[np.ndarray, "R"]]:
    """The ranks that `retrieval_metrics` sums up."""
    collapsed, best_caption = video_ranks(similarity, right, ties)
    found = {"t2v": ranks(similarity, right, ties), "v2t": collapsed}
    if len(np.unique(right)) < len(right):
        found["v2t_best_caption"] = best_caption
    return found


def directions(
    similarity: Float[np.ndarray, "T V"], right: Int[np.ndarray, "T"], ties: str
) -> dict[str, Direction]:
    """The ranks of all directions that `retrieval_metrics` has figures of.

    Args:
        similarity: of texts with videos.
        right: the video of each text.
        ties: see `vop_jax.metrics`.
    """
    found, asked = {}, np.unique(right)
    highest = lowest = {}
    if ties == "clip4clip":
        lowest = _ranks(similarity, right, "optimistic")
        highest = _ranks(similarity, right, "pessimistic")
    for way, values in _ranks(similarity, right, ties).items():
        query = np.arange(len(right)) if way == "t2v" else asked
        video = right if way == "t2v" else asked
        if ties == "clip4clip":
            times = (highest[way] - lowest[way] + 1).astype(int)
            query, video = np.repeat(query, times), np.repeat(video, times)
        found[way] = Direction(values, query, video)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """A similarity matrix and how it is to be scored.

    Attributes:
        title: what it is, for the tables.
        similarity: of texts (rows) with videos (columns).
        video_of_text: the right video of each text.
        results: the figures of `results.json`, which head all others.
        ties: see `vop_jax.metrics`.
        texts: the captions, where they are known.
        video_ids: of the videos, where they are known.
        temperature: of DSL; None leaves it out.
        bank: similarities of further texts with the videos, for QB-Norm.
        video_bank: similarities of the texts with further videos, for QB-Norm.
        beta: of QB-Norm.
        resamples: draws of the intervals.
        seed: of the draws.
    """

    title: str
    similarity: Float[np.ndarray, "T V"]
    video_of_text: Int[np.ndarray, "T"]
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

    @cached_property
    def ways(self) -> dict[str, Direction]:
        """The ranks by direction."""
        return directions(self.similarity, self.video_of_text, self.ties)

    @cached_property
    def intervals(self) -> dict[str, dict[str, tuple[float, float]]]:
        """The interval of every metric by direction."""
        return {way: self._intervals(found) for way, found in self.ways.items()}

    @cached_property
    def by_ties(self) -> dict[str, dict[str, dict[str, float]]]:
        """What each policy makes of the ties, by direction."""
        return {
            ties: {way: summary(found) for way, found in self._ranks(ties).items()}
            for ties in TIES
        }

    @cached_property
    def tied(self) -> dict[str, int]:
        """By direction, how many queries have a candidate as near as the right one."""
        lowest, highest = self._ranks("optimistic"), self._ranks("pessimistic")
        return {way: int((lowest[way] != highest[way]).sum()) for way in lowest}

    @cached_property
    def corrected(self) -> dict[str, dict[str, Any]]:
        """By correction its constants, figures and intervals."""
        found: dict[str, dict[str, Any]] = {}
        for name, constants, way, similarity in self._corrections():
            entry = found.setdefault(name, {"intervals": {}})
            entry |= constants
            ways = directions(similarity, self.video_of_text, self.ties)
            # A correction of one direction's rows says nothing of the other's.
            for key in (key for key in ways if key.startswith(way)):
                entry[key] = summary(ways[key].ranks)
                entry["intervals"][key] = self._intervals(ways[key])
        return found

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        drawing = {"level": LEVEL, "resamples": self.resamples, "seed": self.seed}
        return {
            **self.results,
            "ties": self.ties,
            # What the recalls are divided by: with clip4clip more than the queries.
            "counted": {way: len(found.ranks) for way, found in self.ways.items()},
            "intervals": drawing | self.intervals,
            "tied_queries": self.tied,
            "by_ties": self.by_ties,
            "corrected": self.corrected,
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
        # Videos that are not known by name are so by their column.
        names = self.video_ids or list(range(self.similarity.shape[1]))
        content["t2v_videos"] = [names[video] for video in self.video_of_text]
        content["v2t_queries"] = [
            names[video] for video in np.unique(self.ways["v2t"].query)
        ]
        return content

    def show(self) -> None:
        """Prints the tables."""
        # Before the first table: of a bank that does not fit nothing else is said.
        corrected = self.corrected
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
        """The corrections with their constants, in words."""
        said = []
        for name, entry in self.corrected.items():
            constants = (x for x in entry.items() if not isinstance(x[1], dict))
            said.append(f"{name} ({', '.join(f'{k} {v:g}' for k, v in constants)})")
        return ", ".join(said)

    def _ranks(self, ties: str) -> dict[str, Float[np.ndarray, "R"]]:
        return _ranks(self.similarity, self.video_of_text, ties)

    def _intervals(self, found: Direction) -> dict[str, tuple[float, float]]:
        return bootstrap_intervals(
            found.ranks, found.video, resamples=self.resamples, seed=self.seed
        )

    def _corrections(self) -> Iterator[tuple[str, dict[str, float], str, np.ndarray]]:
        """Each correction's name, constants, direction and similarity."""
        similarity, beta = self.similarity, self.beta
        if self.temperature is not None:
            constants = {"temperature": self.temperature}
            changed = dual_softmax(similarity, self.temperature)
            yield "DSL", constants, "t2v", changed
            changed = dual_softmax(similarity.T, self.temperature).T
            yield "DSL", constants, "v2t", changed
        if self.bank is not None:
            changed = querybank_norm(similarity, self.bank, beta)
            yield "QB-Norm", {"beta": beta, "bank": len(self.bank)}, "t2v", changed
        if self.video_bank is not None:
            others = self.video_bank.T
            changed = querybank_norm(similarity.T, others, beta).T
            constants = {"beta": beta, "video_bank": len(others)}
            yield "QB-Norm", constants, "v2t", changed


def _cells(
    figures: dict[str, float], intervals: dict[str, tuple[float, float]]
) -> list[str]:
    """Figures with their intervals, to be shown."""
    return [
        f"{figures[name]:.1f} [{low:.1f}, {high:.1f}]"
        for name, (low, high) in intervals.items()
    ]
