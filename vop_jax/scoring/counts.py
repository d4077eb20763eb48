"""How many candidates are more similar than the correct one, and how many as similar.

Every rank, tie policy and metric follows from these two counts by arithmetic, so that a
matrix is read once, in blocks, for both directions.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vop_jax.scoring.blocks import as_float32, slices
from vop_jax.scoring.hub_corrections import Correction
from vop_jax.scoring.similarity import Similarity
from vop_jax.scoring.ties import SHARES


class Counts(NamedTuple):
    """The two counts of each query of one direction.

    Attributes:
        greater: candidates that are more similar than the correct one.
        tied: other candidates that are as similar as the correct one.
    """

    greater: Int[np.ndarray, "Q"]
    tied: Int[np.ndarray, "Q"]

    def ranks(self, ties: str) -> Float[np.ndarray, "R"]:
        """The ranks from 1, one per query; with `clip4clip` also one for each tie.

        Args:
            ties: the tie policy, see `metrics.retrieval_metrics`.
        """
        if ties != "clip4clip":
            return (1 + self.greater + SHARES[ties] * self.tied).astype(np.float32)
        times = self.tied + 1
        start = np.repeat(np.cumsum(times) - times, times)
        within = np.arange(times.sum()) - start
        return (1 + np.repeat(self.greater, times) + within).astype(np.float32)


def count(
    similarity: Float[np.ndarray, "T V"] | Similarity, right: Int[np.ndarray, "T"]
) -> dict[str, Counts]:
    """The counts of both directions, from one pass over a matrix.

    Args:
        similarity: of texts (rows) with videos (columns), finite; compared as float32.
        right: the correct video of each text.

    Returns:
        `t2v`, the counts of each text; `v2t`, of each video that has a text, among the
        best texts of these videos; and, if a video has several texts,
        `v2t_best_caption`, of its best text among the texts of other videos.
    """
    texts = _Texts(right)
    own = _own(similarity, texts)
    found = np.zeros((2, len(right)), np.int64)
    tallies = []
    for columns, tiles in _tiles(similarity, texts):
        tally = _Tally(texts, columns, own)
        for rows, tile in tiles:
            greater, equal = _compare(tile, own[rows, None], axis=1)
            found[0, rows] += greater
            found[1, rows] += equal
            tally.add(rows, tile)
        tallies.append(tally.result())
    greater, equal = np.empty_like(found)
    # Back from the order of the videos to that of the texts.
    greater[texts.order], equal[texts.order] = found
    return {"t2v": Counts(greater, equal - 1), **_joined(tallies)}


def count_corrected(
    correction: Correction, right: Int[np.ndarray, "T"], way: str
) -> dict[str, Counts]:
    """As `count`, in one direction, of a correction for hubs, which is never held.

    Args:
        correction: of texts (rows) with videos (columns) for `t2v`; of videos with
            texts for `v2t`.
        right: the correct video of each text.
        way: `t2v` or `v2t`.
    """
    if way == "t2v":
        blocks = []
        for rows, block in correction.blocks():
            own = np.take_along_axis(block, right[rows, None], axis=1)
            blocks.append(_compare(block, own, axis=1))
        greater, equal = (np.concatenate(x) for x in zip(*blocks, strict=True))
        return {"t2v": Counts(greater, equal - 1)}
    texts, tallies = _Texts(right), []
    own = np.empty(len(right), np.float32)
    for columns, block in correction.blocks():
        values = np.ascontiguousarray(block.T[texts.order])
        inside = np.flatnonzero(
            (columns.start <= texts.video) & (texts.video < columns.stop)
        )
        own[inside] = values[inside, texts.video[inside] - columns.start]
        tally = _Tally(texts, columns, own)
        for rows in slices(*values.shape):
            tally.add(rows, values[rows])
        tallies.append(tally.result())
    return _joined(tallies)


class _Texts:
    """Texts sorted by video, so that those of a video are consecutive.

    Args:
        right: the correct video of each text.
    """

    def __init__(self, right: Int[np.ndarray, "T"]):
        self.order = np.argsort(right, kind="stable")
        self.video = right[self.order]
        # The videos that have a text, and where the texts of each begin and end.
        self.asked, self.begin = np.unique(self.video, return_index=True)
        self.end = np.append(self.begin[1:], len(right))
        self.several = len(self.asked) < len(right)
        self.are_sorted = bool((self.order[1:] > self.order[:-1]).all())

    def rows(self, values: np.ndarray, rows: slice) -> np.ndarray:
        """Rows of an array in the order of the texts, by their place after sorting."""
        return values[rows] if self.are_sorted else values[self.order[rows]]


class _Tally:
    """The counts of some videos as queries, over blocks of texts sorted by video.

    Args:
        texts: the texts.
        columns: the videos, a range of all videos.
        own: of each sorted text, the similarity with its video.
    """

    def __init__(self, texts: _Texts, columns: slice, own: Float[np.ndarray, "T"]):
        first, last = np.searchsorted(texts.asked, (columns.start, columns.stop))
        begin, end = texts.begin[first:last], texts.end[first:last]
        self._texts, width = texts, columns.stop - columns.start
        self._asked = texts.asked[first:last] - columns.start
        # Zero for a video without a text, whose counts are dropped: it is no query.
        self._best = np.zeros(width, np.float32)
        self._own_ties = np.zeros(len(self._asked), np.int64)
        if len(begin):
            part = own[begin[0] : end[-1]]
            best = np.maximum.reduceat(part, begin - begin[0])
            self._best[self._asked] = best
            is_best = part == np.repeat(best, end - begin)
            self._own_ties = np.add.reduceat(is_best, begin - begin[0], dtype=np.int64)
        self._of_texts = np.zeros((2, width), np.int64)
        self._of_videos = np.zeros((2, width), np.int64)
        # The best text so far of a video whose texts continue in the next block.
        self._open: np.ndarray | None = None

    def add(self, rows: slice, block: Float[np.ndarray, "R C"]) -> None:
        """Counts the next texts.

        Args:
            rows: their places among the sorted texts.
            block: their similarities with the videos.
        """
        self._of_texts += _compare(block, self._best, axis=0)
        if self._texts.several:
            best = self._collapsed(rows, block)
            self._of_videos += _compare(best, self._best, axis=0)

    def result(self) -> dict[str, Counts]:
        """The counts by direction, of the videos that have a text."""
        greater, equal = self._of_texts[:, self._asked]
        # Only ties with other videos' texts count: any own text is correct.
        captions = Counts(greater, equal - self._own_ties)
        if not self._texts.several:
            return {"v2t": captions}
        greater, equal = self._of_videos[:, self._asked]
        return {"v2t": Counts(greater, equal - 1), "v2t_best_caption": captions}

    def _collapsed(
        self, rows: slice, block: Float[np.ndarray, "R C"]
    ) -> Float[np.ndarray, "G C"]:
        """The best text of each video whose last text is in a block."""
        texts = self._texts
        first = np.searchsorted(texts.end, rows.start, side="right")
        last = np.searchsorted(texts.begin, rows.stop)
        cuts = [rows.start, *texts.begin[first + 1 : last], rows.stop]
        best = np.empty((len(cuts) - 1, block.shape[1]), np.float32)
        # NumPy's reduceat is several times slower along the rows.
        for i, (begin, end) in enumerate(itertools.pairwise(cuts)):
            part = block[begin - rows.start : end - rows.start]
            np.maximum.reduce(part, axis=0, out=best[i])
        if self._open is not None:
            np.maximum(best[0], self._open, out=best[0])
        is_open = texts.end[last - 1] > rows.stop
        self._open = best[-1] if is_open else None
        return best[:-1] if is_open else best


def _joined(tallies: list[dict[str, Counts]]) -> dict[str, Counts]:
    """The counts of consecutive ranges of videos, as one."""
    return {
        way: Counts(*map(np.concatenate, zip(*(x[way] for x in tallies), strict=True)))
        for way in tallies[0]
    }


def _own(similarity: np.ndarray | Similarity, texts: _Texts) -> Float[np.ndarray, "T"]:
    """The similarity of each sorted text with its video, in float32."""
    if not isinstance(similarity, Similarity):
        return as_float32(similarity[texts.order, texts.video])
    found = np.empty(len(texts.video), np.float32)
    # Taken from the products that are compared with it: those of another shape may
    # differ in the last bit.
    for columns in similarity.columns():
        for rows in similarity.rows():
            inside = np.flatnonzero(
                (columns.start <= texts.video[rows])
                & (texts.video[rows] < columns.stop)
            )
            if len(inside):
                tile = similarity.tile(texts.order[rows], columns)
                video = texts.video[rows][inside] - columns.start
                found[rows.start + inside] = tile[inside, video]
    return found


def _tiles(
    similarity: np.ndarray | Similarity, texts: _Texts
) -> Iterator[tuple[slice, Iterator[tuple[slice, Float[np.ndarray, "R C"]]]]]:
    """Ranges of videos, each with its blocks of sorted texts."""
    if not isinstance(similarity, Similarity):
        yield slice(0, similarity.shape[1]), _blocks(similarity, texts)
        return
    for columns in similarity.columns():
        yield columns, _products(similarity, texts, columns)


def _blocks(
    similarity: Float[np.ndarray, "T V"], texts: _Texts
) -> Iterator[tuple[slice, Float[np.ndarray, "R V"]]]:
    for rows in slices(*similarity.shape):
        yield rows, as_float32(texts.rows(similarity, rows))


def _products(
    similarity: Similarity, texts: _Texts, columns: slice
) -> Iterator[tuple[slice, Float[np.ndarray, "R C"]]]:
    for many in similarity.rows():
        tile = similarity.tile(texts.order[many], columns)
        for rows in slices(*tile.shape):
            yield slice(many.start + rows.start, many.start + rows.stop), tile[rows]


def _compare(
    block: Float[np.ndarray, "R C"], own: np.ndarray, axis: int
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """How many values along an axis are greater than the own one, and how many equal.

    Args:
        block: C-contiguous.
        own: broadcast along the axis.
        axis: 0 or 1.
    """
    mask = block > own
    greater = _true(mask, axis)
    return greater, _true(np.equal(block, own, out=mask), axis)


def _true(mask: Bool[np.ndarray, "R C"], axis: int) -> Int[np.ndarray, "N"]:
    """`mask.sum(axis)`, many times faster: up to 255 values are summed as bytes."""
    if axis == 1 and mask.shape[1] > 255:
        return np.array([np.count_nonzero(row) for row in mask])
    found = np.zeros(mask.shape[1 - axis], np.int64)
    values = mask.view(np.uint8)
    for start in range(0, mask.shape[axis], 255):
        part = values[start : start + 255] if axis == 0 else values
        found += np.add.reduce(part, axis=axis, dtype=np.uint8)
    return found
