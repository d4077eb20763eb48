"""Compares ranks with those of another model on the same queries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Ge
from jaxtyping import Float, Int
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import table
from data_pipelines.files.json_files import (
    LARGEST_ANNOTATIONS,
    MustBe,
    StopAtFirst,
    read_described,
)
from vop_jax.scoring.bootstrap import Ranking
from vop_jax.scoring.directions import Direction
from vop_jax.scoring.metrics import summary
from vop_jax.scoring.permutation import Difference, permutation_test

_Rank = Annotated[float, Ge(1)]
_RanksOfQuery = Annotated[
    _Rank | Annotated[list[_Rank], StopAtFirst()],
    MustBe("a number of at least 1, or a list of such numbers"),
]
_Ranks = Annotated[list[_RanksOfQuery], StopAtFirst()]
_Name = Annotated[str | int, MustBe("a string or a whole number")]
_Names = Annotated[list[_Name], StopAtFirst()]
_ADVICE = "score both models on the same data set and split"


class _Required(TypedDict):
    ties: str
    t2v: _Ranks
    v2t: _Ranks
    t2v_videos: _Names
    v2t_queries: _Names


class RanksFile(_Required, total=False):
    """What `evaluate --ranks` writes."""

    t2v_queries: Annotated[list[str], StopAtFirst()]
    v2t_best_caption: _Ranks


class OtherRanks(NamedTuple):
    """The ranks of another model.

    Attributes:
        where: names their file.
        content: what it holds.
    """

    where: str
    content: RanksFile


def read_ranks(path: Path) -> OtherRanks:
    """Reads the ranks of another model, as `evaluate --ranks` wrote them.

    Raises:
        UserError: the file cannot be read, or is of another form.
    """
    content = read_described(path, RanksFile, largest=LARGEST_ANNOTATIONS)
    return OtherRanks(str(path), content)


def compare(
    own: Mapping[str, Any],
    ways: Mapping[str, Direction],
    against: OtherRanks,
    *,
    candidates: Mapping[str, int],
    permutations: int,
    seed: int,
) -> dict[str, dict[str, Difference]]:
    """The differences of all metrics by direction, see `permutation_test`.

    Args:
        own: the ranks of the one model, as `RanksFile` has them.
        ways: the same by direction.
        against: the ranks of the other model.
        candidates: their number by direction, which is the largest rank.
        permutations: their number.
        seed: of the permutations.

    Raises:
        UserError: the other model answered other queries, or ties count otherwise, or
            it has ranks that cannot be.
    """
    where, other = against
    if other["ties"] != own["ties"]:
        raise UserError(
            f"{where} counts ties as {other['ties'][:40]!r}, this evaluation as "
            f"{own['ties']!r}; pass --ties to one of them"
        )
    # The queries by name, where both files have names.
    for key in ("t2v_queries", "t2v_videos", "v2t_queries"):
        if key in own and own[key] != other.get(key, own[key]):
            raise UserError(f"{where} is of other queries ({key} differ); {_ADVICE}")
    found = {}
    for way, direction in ways.items():
        ranks = other.get(way)
        if ranks is None or len(ranks) != len(own[way]):
            raise UserError(
                f"{where} has {0 if ranks is None else len(ranks)} queries of {way}, "
                f"but there are {len(own[way])}; {_ADVICE}"
            )
        values, times = _checked(ranks, f"{where}: {way}", own["ties"], candidates[way])
        first = np.flatnonzero(np.diff(direction.query, prepend=-1))
        theirs = Ranking(
            values,
            np.repeat(direction.video[first], times),
        )
        found[way] = permutation_test(
            Ranking(direction.ranks, direction.video),
            theirs,
            permutations=permutations,
            seed=seed,
        )
    return found


def _checked(
    ranks: _Ranks, where: str, ties: str, candidates: int
) -> tuple[Float[np.ndarray, "R"], Int[np.ndarray, "Q"]]:
    """The ranks of all queries, and how many each has: one for each tie, or just one.

    Raises:
        UserError: there are ranks that cannot be.
    """
    each = [x if isinstance(x, list) else [x] for x in ranks]
    if ties != "clip4clip" and any(isinstance(x, list) for x in ranks):
        raise UserError(f"{where} has lists of ranks, which ties={ties} does not have")
    times = np.array([len(x) for x in each])
    if not times.all():
        raise UserError(f"{where} has a query without a rank")
    if times.max() > candidates:
        raise UserError(
            f"{where} has a query of {times.max():,} ranks among {candidates:,} "
            f"candidates; {_ADVICE}"
        )
    values = np.concatenate(each).astype(np.float64)
    most = values.max()
    if most > candidates:
        raise UserError(
            f"{where} has a rank of {most:,.10g} among {candidates:,} candidates; "
            f"{_ADVICE}"
        )
    return values, times


def as_json(
    found: dict[str, dict[str, Difference]], permutations: int, where: str
) -> dict[str, Any]:
    """A comparison as JSON values."""
    drawing = {"ranks": where, "permutations": permutations}
    return drawing | {
        way: {name: each._asdict() for name, each in metrics.items()}
        for way, metrics in found.items()
    }


def show(found: dict[str, dict[str, Difference]], where: str) -> None:
    """Prints a comparison as a table."""
    rows = [
        [way, *(f"{x.value:+.1f} (p {x.p:.3f})" for x in metrics.values())]
        for way, metrics in found.items()
    ]
    title = f"difference to {where}, paired permutation test"
    table(title, ["", *summary(np.ones(1))], rows)
