"""What an update does at its end: tidies the store, and measures the index."""

import collections
from collections.abc import Mapping
from typing import NamedTuple

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import warn
from vop_jax.index import approximate, snapshot
from vop_jax.index.background import SENTENCES, Background, measure
from vop_jax.index.encoder import VideoEncoder
from vop_jax.index.meta import Meta
from vop_jax.index.store import Store
from vop_jax.index.tables import REMOVED, VideoRow, age_of
from vop_jax.index.view import blocks_of, newest, read_view

# Seconds that rows of a replaced or unfinished video are kept: another process may be
# about to finish it, or to use its moments for a copy.
GRACE = 3600.0


class Kept(NamedTuple):
    """The index after an update.

    Attributes:
        rows: the row of each path.
        background: its answers to unrelated sentences.
        recall: of the approximate index against exact search; None without one.
    """

    rows: Mapping[str, VideoRow]
    background: Background | None
    recall: float | None


def whole_sets(store: Store, rows: Mapping[str, VideoRow]) -> set[str]:
    """The sets of which every moment is stored."""
    wanted = {row.moment_set: row.moments for row in rows.values()}
    found = store.scan(store.moments(), ["moment_set"])["moment_set"]
    with store.errors():
        counts = collections.Counter(found.to_pylist())
    return {x for x, n in wanted.items() if x and counts[x] >= n}


def keep_up(store: Store, meta: Meta, model: VideoEncoder) -> Kept:
    """Tidies the store, brings the approximate index up to date, and measures.

    Args:
        store: the store.
        meta: of the index.
        model: embeds the unrelated sentences.
    """
    # The videos are stored by now: what is left here makes searches faster, and another
    # process may be about to do the same.
    try:
        _drop_replaced(store, meta)
        # All rows may be written anew.
        store.check_room(store.size())
        store.tidy(GRACE)
        approximate.refresh(store)
    except UserError as error:
        warn(f"{error}; the index is complete but not tidied")
    # Before the view is read, so that what others store meanwhile is missed by neither.
    rows = snapshot.stamp(store.place, snapshot.ROWS)
    view = read_view(store, meta.embedding, meta.digest)
    background = measure(model.encode_texts(list(SENTENCES)), blocks_of(view))
    if background:
        store.record("background", background.record())
    made = snapshot.stamp(store.place)
    records = store.records()
    # Otherwise the view is not of the tables that the stamp is of; whoever has stored
    # something since writes a copy of his own.
    if snapshot.stamp(store.place, snapshot.ROWS) == rows:
        snapshot.write(store.place, made, records, view)
    recall = approximate.recall(store, view) if view.vectors is None else None
    return Kept(view.rows, background, recall)


def _drop_replaced(store: Store, meta: Meta) -> None:
    """Deletes what no video refers to any more, once no process can want it."""
    rows, _ = store.videos()
    counting = {row.id for row in newest(rows, meta.digest).values()}
    # A row that says that a video is gone may go once the older rows of it have gone.
    last = {row.path: row.id for row in rows}
    stale = [
        row.id
        for row in rows
        if row.id not in counting
        and (row.id != last[row.path] or row.status == REMOVED)
        and age_of(row.id) > GRACE
    ]
    kept = {row.moment_set for row in rows if row.id not in {*stale}}
    sets = store.scan(store.moments(), ["moment_set"])["moment_set"]
    with store.errors():
        unused = [
            name
            for name in sets.unique().to_pylist()
            if name and name not in kept and age_of(name) > GRACE
        ]
    store.delete(unused, stale)
