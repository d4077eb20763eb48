"""Answers queries from a view of the index."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable
from vop_jax.index import approximate
from vop_jax.index.answers import Answer, Filters, Hit, Query
from vop_jax.index.background import Background
from vop_jax.index.encoder import VideoEncoder
from vop_jax.index.given_paths import video_named
from vop_jax.index.moment_names import name_of
from vop_jax.index.ranking import Scored, Stretch, ranked
from vop_jax.index.view import View, exists, passing

# Queries whose similarities are held at once.
_TOGETHER = 16
# Moments that answer alike if there is no background to tell: a part of the best.
_ALIKE = 0.02


class Asked(NamedTuple):
    """A query as the search uses it.

    Attributes:
        name: the text, or what it is in words.
        vector: its embedding.
        itself: the moment that it was taken from; -1 if none.
        is_text: whether the background of texts applies.
    """

    name: str
    vector: Float[np.ndarray, "E"]
    itself: int
    is_text: bool


def check_queries(queries: Sequence[Query]) -> None:
    """Checks that each query is one of a text, a picture and a moment.

    Raises:
        UserError: one is not, or there is none.
    """
    if not queries:
        raise UserError("there is no query; describe the video to find")
    for query in queries:
        given = (bool(query.text.strip()), query.image is not None, bool(query.like))
        if not any(given):
            raise UserError("a query is empty; describe the video to find")
        if sum(given) > 1:
            raise UserError("a query is one of a text, a picture and a moment")


def embedded(
    model: VideoEncoder, view: View, queries: Sequence[Query], root: Path
) -> list[Asked]:
    """Embeds queries: all texts at once, each picture by itself, moments from the view.

    Raises:
        NotInTheIndexError: a moment is of a video that is not in the index.
        UserError: a moment is damaged.
    """
    texts = [query.text for query in queries if query.text]
    vectors = iter(model.encode_texts(texts)) if texts else iter(())
    return [
        Asked(query.text, next(vectors).astype(np.float32), -1, True)
        if query.text
        else _other(model, view, query, root)
        for query in queries
    ]


def _other(model: VideoEncoder, view: View, query: Query, root: Path) -> Asked:
    if query.image is not None:
        # A video of one frame, which is decoded as that frame F times.
        shape = (1, model.num_frames, *query.image.shape)
        vector = model.encode_videos(np.broadcast_to(query.image, shape).copy())[0]
        return Asked("a picture", vector.astype(np.float32), -1, False)
    assert query.like is not None
    path, time = query.like
    path = video_named(path, view.rows, root)
    moment = view.moment_at(view.rows[path], time)
    vectors, damaged = view.take(np.array([moment]))
    if damaged:
        raise UserError(f"{damaged[0]}; index again")
    return Asked(name_of(printable(path), time), vectors[0], moment, False)


def answers(
    view: View,
    asked: Sequence[Asked],
    background: Background | None,
    root: Path,
    *,
    top: int,
    per_video: int,
    filters: Filters,
    allowed: Bool[np.ndarray, "S"] | None,
) -> tuple[list[Answer], list[str]]:
    """The hits of each query, and the damaged moments that were met.

    Args:
        view: what is searched.
        asked: the queries.
        background: what unrelated texts find, if that is known.
        root: the folder of videos.
        top: number of hits per query.
        per_video: the most hits in one video.
        filters: which videos are considered.
        allowed: the sets that hold one of them; None for all.
    """
    passes = passing(filters)
    found, refused = [], []
    for query, scored in _scored(view, asked, top, allowed, refused):
        alike = _ALIKE * float(np.max(scored.similarities, initial=0.0))
        if query.is_text and background:
            alike = background.std
        best = ranked(
            view,
            scored,
            alike=max(0.0, alike),
            top=top,
            per_video=per_video,
            allowed=allowed,
            prefer=lambda row: passes(row) and exists(root, row),
        )
        tell = background if query.is_text else None
        hits = [_hit(view, root, i, x, tell) for i, x in enumerate(best, 1)]
        found.append(Answer(query.name, hits))
    return found, list(dict.fromkeys(refused))


def _scored(
    view: View,
    asked: Sequence[Asked],
    top: int,
    allowed: Bool[np.ndarray, "S"] | None,
    refused: list[str],
) -> Iterator[tuple[Asked, Scored]]:
    for i in range(0, len(asked), _TOGETHER):
        some = asked[i : i + _TOGETHER]
        score = _from_memory if view.vectors is not None else _from_disk
        scores = score(view, some, top, allowed, refused)
        for query, scored in zip(some, scores, strict=True):
            if query.itself >= 0:
                scored.similarities[scored.moments == query.itself] = -np.inf
            yield query, scored


def _from_memory(view: View, asked: Sequence[Asked], *_: object) -> Iterator[Scored]:
    similarities = _similarities(view, np.stack([query.vector for query in asked]))
    moments = np.arange(len(view))
    yield from (Scored(moments, row) for row in similarities)


def _from_disk(
    view: View,
    asked: Sequence[Asked],
    top: int,
    allowed: Bool[np.ndarray, "S"] | None,
    refused: list[str],
) -> Iterator[Scored]:
    for query in asked:
        # More videos than asked for, since copies count once.
        scored, damaged = approximate.scored(view, query.vector, 2 * top, allowed)
        refused.extend(damaged)
        yield scored


def _similarities(
    view: View, queries: Float[np.ndarray, "Q E"], block: int = 65_536
) -> Float[np.ndarray, "Q N"]:
    """Inner products of queries with all moments in memory."""
    vectors = view.vectors
    assert vectors is not None
    if vectors.dtype == np.float32:
        return queries @ vectors.T
    found = np.empty((len(queries), len(vectors)), np.float32)
    for i in range(0, len(vectors), block):
        part = vectors[i : i + block].astype(np.float32)
        found[:, i : i + block] = queries @ part.T
    return found


def _hit(
    view: View, root: Path, rank: int, found: Stretch, background: Background | None
) -> Hit:
    row, *copies = found.videos
    similarity = found.similarity
    return Hit(
        rank=rank,
        video=row.path,
        start=float(view.starts[found.first]),
        end=float(view.ends[found.last]),
        similarity=similarity,
        stands_out=background.stands_out(similarity) if background else None,
        weak=background.is_weak(similarity) if background else False,
        exists=exists(root, row),
        duration=row.duration,
        copies=tuple(copy.path for copy in copies),
        moment=view.id_of(found.best),
        best=float(view.starts[found.best] + view.ends[found.best]) / 2,
    )
