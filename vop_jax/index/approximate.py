"""The approximate index on disk, for more moments than memory should hold.

A graph (HNSW) over vectors of one byte a number; the candidates are ranked again by
their stored vectors, so that every similarity that is shown is exact.
"""

import numpy as np
from jaxtyping import Bool, Float

from vop_jax.index.ranking import Scored
from vop_jax.index.store import GRAPH, Store
from vop_jax.index.view import EXACT_BELOW, View

# Links of a moment in the graph, and candidates that building considers for them; the
# defaults, 20 and 300, take twice the time and find nothing more.
_LINKS, _BUILT = 16, 100
# Candidates that the graph collects, and how many times the answers are ranked again.
_BREADTH, _REFINED = 300, 4
# Neighbours of a candidate whose similarity is computed too, for stretches.
_REACH = 4
# The most moments of filtered videos that are compared one by one instead.
_ONE_BY_ONE = 20_000
# Rows that the graph does not cover are compared one by one; the most of them, as a
# part of all, before it is built anew.
_UNCOVERED = 0.2
_SAMPLE = 50


def refresh(store: Store) -> bool:
    """Builds the approximate index if there are enough moments and it lacks many.

    Returns:
        Whether it was built.
    """
    table = store.moments()
    with store.errors():
        rows = table.count_rows()
        if rows < EXACT_BELOW:
            return False
        covered = 0
        if store.has_graph():
            stats = table.index_stats(GRAPH)
            covered = stats.num_indexed_rows if stats else 0
        if rows - covered <= _UNCOVERED * rows:
            return False
        from lancedb.index import HnswSq

        graph = HnswSq(distance_type="dot", m=_LINKS, ef_construction=_BUILT)
        table.create_index("vector", config=graph, replace=True)
    return True


def scored(
    view: View,
    query: Float[np.ndarray, "E"],
    count: int,
    allowed: Bool[np.ndarray, "S"] | None,
) -> tuple[Scored, list[str]]:
    """The moments that are most similar to a query, and their neighbours.

    Args:
        view: whose vectors are on disk.
        query: its embedding.
        count: number of videos that are wanted.
        allowed: of each set, whether it may be found.

    Returns:
        Exact similarities, and the names of damaged moments.
    """
    if allowed is not None:
        lengths = np.diff(view.first)
        if lengths[allowed].sum() <= _ONE_BY_ONE:
            moments = np.flatnonzero(np.repeat(allowed, lengths))
            return _compared(view, query, moments)
    wanted = 2 * count
    while True:
        moments = _candidates(view, query, wanted)
        places = np.unique(view.set_of(moments))
        if allowed is not None:
            places = places[allowed[places]]
        if len(places) >= count or wanted >= len(view):
            return _compared(view, query, _with_neighbours(view, moments))
        wanted *= 4


def _candidates(view: View, query: np.ndarray, count: int) -> np.ndarray:
    found = (
        view.table.search(query, vector_column_name="vector")
        .distance_type("dot")
        .ef(max(_BREADTH, _REFINED * count))
        .refine_factor(_REFINED)
        .limit(count)
        .select(["moment_set", "number", "_distance"])
        .to_arrow()
    )
    moments = []
    # Sets without a video are unfinished, or of a video that is gone.
    for name, number in zip(
        found["moment_set"].to_pylist(), found["number"].to_pylist(), strict=True
    ):
        moment = view.moment_named(f"{name}.{number}")
        if moment is not None:
            moments.append(moment)
    return np.array(moments, np.int64)


def _with_neighbours(view: View, moments: np.ndarray) -> np.ndarray:
    places = view.set_of(moments)
    around = moments[:, None] + np.arange(-_REACH, _REACH + 1)
    inside = (around >= view.first[places][:, None]) & (
        around < view.first[places + 1][:, None]
    )
    return np.unique(around[inside])


def _compared(
    view: View, query: np.ndarray, moments: np.ndarray
) -> tuple[Scored, list[str]]:
    vectors, damaged = view.take(moments)
    similarities = np.where(np.isnan(vectors[:, 0]), -np.inf, vectors @ query)
    return Scored(moments, similarities), damaged


def recall(store: Store, view: View, top: int = 10) -> float:
    """Recall of the approximate index against the exact search.

    Queries are moments of the index with some noise, so that none finds itself alone.

    Args:
        store: for error messages.
        view: whose vectors are on disk.
        top: number of moments per query.

    Returns:
        The part of the exact answers that it finds, from 0 to 1.
    """
    rng = np.random.default_rng(0)
    with store.errors():
        chosen = np.sort(rng.choice(len(view), min(_SAMPLE, len(view)), replace=False))
        queries, _ = view.take(chosen)
        queries = queries[np.isfinite(queries).all(axis=1)]
        noise = rng.normal(size=queries.shape).astype(np.float32)
        scale = np.linalg.norm(queries, axis=1, keepdims=True)
        queries += 0.5 * scale * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        exact = _exact(view, queries, top)
        hits = 0
        for query, best in zip(queries, exact, strict=True):
            found, _ = _compared(view, query, _candidates(view, query, top))
            order = np.argsort(-found.similarities)[:top]
            hits += len({*found.moments[order].tolist()} & {*best.tolist()})
    return hits / max(1, exact.size)


def _exact(view: View, queries: np.ndarray, top: int) -> np.ndarray:
    """The most similar moments by comparing all, in parts."""
    values = np.full((len(queries), 0), -np.inf, np.float32)
    places = np.zeros((len(queries), 0), np.int64)
    for first in range(0, len(view), EXACT_BELOW):
        moments = np.arange(first, min(first + EXACT_BELOW, len(view)))
        vectors, _ = view.take(moments)
        found = np.nan_to_num(queries @ vectors.T, nan=-np.inf)
        values = np.concatenate([values, found], axis=1)
        places = np.concatenate([places, np.tile(moments, (len(queries), 1))], axis=1)
        best = np.argsort(-values, axis=1)[:, :top]
        values = np.take_along_axis(values, best, axis=1)
        places = np.take_along_axis(places, best, axis=1)
    return places
