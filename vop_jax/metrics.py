"""Retrieval metrics: ranks, recalls, and what ties mean."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.errors import UserError
from vop_jax.similarity import Similarity

# What share of the ties a rank counts.
_SHARES = {"mean": 0.5, "optimistic": 0.0, "pessimistic": 1.0}
TIES = (*_SHARES, "clip4clip")
# What a clip's order is measured by, and what is then compared.
ORDERS = {
    "twins": "A clip against its time-reversed twin",
    "same_end": "A clip against one that differs only in how it got there",
}
# Values looked at in one go: a few MB, however large the matrix.
_BLOCK = 1 << 18


def retrieval_metrics(
    similarity: Float[np.ndarray, "T V"] | Similarity,
    video_of_text: Int[np.ndarray, "T"] | None = None,
    ties: str = "mean",
) -> dict[str, dict[str, float]]:
    """Text-to-video and video-to-text metrics of a similarity matrix.

    Similarities are compared as float32. The matrix is read in blocks and never copied.

    Args:
        similarity: of every text (row) with every video (column); a matrix, or a
            `vop_jax.similarity.Similarity`, of which no more than a block ever exists.
        video_of_text: the right video of each text; None means the diagonal of a
            square matrix. A video without a text is found or not, but never asked for.
        ties: what equal similarities do to a rank of 1 + the number of greater ones:
            `mean` adds half of the ties, `optimistic` none, `pessimistic` all.
            `clip4clip` counts a query once for each of its ties, at every rank they
            take, and divides by the number so counted: what comes of CLIP4Clip's
            `np.where(np.sort(-x) - np.diag(-x)[:, None] == 0)`.

    Returns:
        `{"t2v": {"R@1", "R@5", "R@10", "MdR", "MnR"}, "v2t": {...}}`, recalls in
        percent. Where a video has several texts, t2v averages over texts, `v2t` takes
        the texts of each video together as their best one, and `v2t_best_caption` is
        the rank of a video's best own text among all texts.

    Raises:
        UserError: not a matrix, a map that does not fit, or a value that is not finite.
    """
    similarity, right = _checked(similarity, video_of_text, ties)
    collapsed, best_caption = video_ranks(similarity, right, ties)
    results = {
        "t2v": summary(_text_ranks(similarity, right, ties)),
        "v2t": summary(collapsed),
    }
    if len(np.unique(right)) < len(right):
        results["v2t_best_caption"] = summary(best_caption)
    return results


def ranks(
    similarity: Float[np.ndarray, "T V"] | Similarity,
    video_of_text: Int[np.ndarray, "T"] | None = None,
    ties: str = "mean",
) -> Float[np.ndarray, "Q"]:
    """The rank of each text's video, from 1; arguments as of `retrieval_metrics`.

    Returns:
        One for each text, in their order; with `clip4clip` one for each tie as well.
    """
    return _text_ranks(*_checked(similarity, video_of_text, ties), ties)


def summary(ranks: Float[np.ndarray, "Q"]) -> dict[str, float]:
    """Recalls in percent, the median and the mean of ranks that start at 1."""
    recalls = {f"R@{k}": 100 * float(np.mean(ranks <= k)) for k in (1, 5, 10)}
    # Summed in float64: a float32 runs out of digits on a million ranks.
    mean = float(np.mean(ranks, dtype=np.float64))
    return recalls | {"MdR": float(np.median(ranks)), "MnR": mean}


def _text_ranks(
    similarity: np.ndarray, right: Int[np.ndarray, "T"], ties: str
) -> Float[np.ndarray, "Q"]:
    found = []
    for rows in _blocks(similarity, *similarity.shape):
        block = _float32(similarity[rows])
        own = np.take_along_axis(block, right[rows, None], axis=1)
        greater, equal = (block > own).sum(1), (block == own).sum(1)
        found.append(_ranks(greater, equal - 1, ties))
    return np.concatenate(found)


class VideoRanks(NamedTuple):
    """Video-to-text ranks in both definitions, of the videos that have a text."""

    collapsed: np.ndarray
    best_caption: np.ndarray


def video_ranks(
    similarity: np.ndarray, right: Int[np.ndarray, "T"], ties: str
) -> VideoRanks:
    """The rank of each video that has a text; arguments checked already."""
    # Texts sorted by video, so that each video's are one run of rows.
    order = np.argsort(right, kind="stable")
    asked, first, count = np.unique(right[order], return_index=True, return_counts=True)
    collapsed, best_caption = [], []
    for place in _blocks(similarity, len(asked), len(right)):
        block = _float32(similarity[:, asked[place]])[order]
        best = np.maximum.reduceat(block, first, axis=0)
        own = np.take_along_axis(best, np.arange(len(asked))[None, place], axis=0)
        greater, equal = (best > own).sum(0), (best == own).sum(0)
        collapsed.append(_ranks(greater, equal - 1, ties))
        greater, equal = (block > own).sum(0), (block == own).sum(0)
        # An own text that equals the best own one is as right; only others' ties count.
        for i, video in enumerate(range(place.start, place.start + own.shape[1])):
            run = slice(first[video], first[video] + count[video])
            equal[i] -= (block[run, i] == own[0, i]).sum()
        best_caption.append(_ranks(greater, equal, ties))
    return VideoRanks(np.concatenate(collapsed), np.concatenate(best_caption))


def _ranks(
    greater: Int[np.ndarray, "Q"], tied: Int[np.ndarray, "Q"], ties: str
) -> Float[np.ndarray, "R"]:
    """Ranks from the numbers of greater and of other equal similarities."""
    if ties != "clip4clip":
        return (1 + greater + _SHARES[ties] * tied).astype(np.float32)
    times = tied + 1
    start = np.repeat(np.cumsum(times) - times, times)
    within = np.arange(times.sum()) - start
    return (1 + np.repeat(greater, times) + within).astype(np.float32)


def _blocks(similarity: Any, lines: int, line_size: int) -> Iterator[slice]:
    """Slices of lines (rows or columns) that hold a block of values each."""
    block = similarity.block if isinstance(similarity, Similarity) else _BLOCK
    size = max(1, block // line_size)
    for start in range(0, lines, size):
        yield slice(start, start + size)


def _float32(block: np.ndarray) -> np.ndarray:
    # What is too large for a float32 becomes infinite, which `_checked` refuses.
    with np.errstate(over="ignore"):
        return block.astype(np.float32, copy=False)


def _checked(
    similarity: Any, video_of_text: Any, ties: str
) -> tuple[np.ndarray, np.ndarray]:
    if ties not in TIES:
        raise UserError(f"ties is {ties!r}; it is one of {', '.join(TIES)}")
    similarity = _matrix(similarity)
    texts, videos = similarity.shape
    if video_of_text is None:
        if texts != videos:
            raise UserError(
                f"{texts} texts and {videos} videos: say which video each text belongs "
                "to (video_of_text)"
            )
        video_of_text = np.arange(texts)
    video_of_text = np.asarray(video_of_text)
    if (
        video_of_text.shape != (texts,)
        or not np.issubdtype(video_of_text.dtype, np.integer)
        or video_of_text.min() < 0
        or video_of_text.max() >= videos
    ):
        raise UserError(
            f"video_of_text must hold, for each of {texts} texts, the number of one of "
            f"{videos} videos, from 0"
        )
    return similarity, video_of_text


def _matrix(similarity: Any) -> np.ndarray:
    """The similarity as a finite, real matrix of texts by videos, not copied."""
    if isinstance(similarity, Similarity):
        for features, kind in zip(similarity.features, ("text", "video"), strict=True):
            good = np.isfinite(features).all(axis=1)
            if not good.all():
                raise UserError(
                    f"the features of {kind} {int(np.argmin(good))} are not finite"
                )
        return similarity  # pyright: ignore[reportReturnType]
    try:
        similarity = np.asarray(similarity)
    except ValueError:
        raise UserError("the similarity's rows have different lengths") from None
    if similarity.ndim != 2 or not similarity.size:
        raise UserError(
            f"the similarity has shape {list(similarity.shape)}; it is a matrix of "
            "texts (rows) by videos (columns)"
        )
    # bfloat16 is no type of NumPy's own, which takes it for raw bytes.
    if similarity.dtype.kind not in "fiub" and similarity.dtype.name != "bfloat16":
        raise UserError(f"the similarity holds {similarity.dtype}, not real numbers")
    for rows in _blocks(similarity, *similarity.shape):
        good = np.isfinite(_float32(similarity[rows]))
        if not good.all():
            row, column = np.argwhere(~good)[0]
            raise UserError(
                f"the similarity of text {rows.start + row} with video {column} is "
                f"{similarity[rows.start + row, column]}, not a finite float32; look "
                "for it in the features"
            )
    return similarity


def twin_accuracy(
    similarity: Float[np.ndarray, "N N"],
    group: Sequence[int],
    variant: Sequence[int],
    twin: Sequence[int],
    family: Sequence[str],
) -> dict[str, Any]:
    """How often a clip is told from its time-reversed twin; chance is 50.

    Args:
        similarity: of each clip's one caption (row) with each clip (column).
        group: of each clip; a group's clips differ in variant and twin.
        variant: 0 or 1, of each clip.
        twin: 0 or 1, of each clip: played forwards or reversed.
        family: the kind of event of each clip.

    Returns:
        `{"t2v", "v2t", "families": {family: ...}}` in percent, where t2v compares a
        caption's own clip with that clip's twin, v2t a clip's own caption with the
        twin's, and a family has the mean of both. A tie counts half.

    Raises:
        UserError: no square matrix, other lengths, or a clip without a twin.
    """
    partner = _partners(group, variant, twin, [1, 0])
    return _accuracy(similarity, partner, family)


def same_end_accuracy(
    similarity: Float[np.ndarray, "N N"],
    group: Sequence[int],
    variant: Sequence[int],
    twin: Sequence[int],
    family: Sequence[str],
) -> dict[str, Any]:
    """As `twin_accuracy`, against the group's other variant with the same twin bit."""
    partner = _partners(group, variant, twin, [0, 1])
    return _accuracy(similarity, partner, family)


def _partners(group: Any, variant: Any, twin: Any, flip: list) -> Int[np.ndarray, "N"]:
    """The clip of each one's group whose (twin, variant) differ where `flip` is 1."""
    sizes = {len(group), len(variant), len(twin)}
    if len(sizes) > 1:
        raise UserError(
            f"{len(group)} groups, {len(variant)} variants and {len(twin)} twins: "
            "each clip has one of each"
        )
    keys = np.stack([np.asarray(x, np.int64) for x in (group, twin, variant)], axis=1)
    places = {tuple(key): place for place, key in enumerate(keys.tolist())}
    if len(places) < len(keys):
        raise UserError("two clips have the same group, variant and twin")
    found = []
    for place, (clip_group, *bits) in enumerate(keys.tolist()):
        other = [bit ^ change for bit, change in zip(bits, flip, strict=True)]
        if (clip_group, *other) not in places:
            raise UserError(
                f"clip {place} has nothing to be compared with: no clip of group "
                f"{clip_group} has twin {other[0]} and variant {other[1]}"
            )
        found.append(places[(clip_group, *other)])
    return np.array(found)


def _accuracy(
    similarity: np.ndarray, partner: Int[np.ndarray, "N"], family: Sequence[str]
) -> dict[str, Any]:
    t2v, v2t = pair_accuracy(similarity, partner)
    if len(family) != len(partner):
        raise UserError(f"{len(partner)} clips but {len(family)} families")
    families = np.asarray(family)
    return {
        "t2v": 100 * float(t2v.mean()),
        "v2t": 100 * float(v2t.mean()),
        "families": {
            str(name): 50 * float((t2v + v2t)[families == name].mean())
            for name in np.unique(families)
        },
    }


def both_ways(accuracy: dict[str, Any]) -> float:
    """The mean of t2v and v2t of `twin_accuracy` or `same_end_accuracy`."""
    return (accuracy["t2v"] + accuracy["v2t"]) / 2


def pair_accuracy(
    similarity: Float[np.ndarray, "N N"], partner: Int[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """How often the own match beats one chosen partner's, t2v and v2t per item.

    Args:
        similarity: square, text i belonging to video i.
        partner: the item that item i is compared with.

    Returns:
        1 where the own match is the closer, 0.5 where both are equal, 0 otherwise.

    Raises:
        UserError: the matrix is not square, or not of the partners' number.
    """
    similarity = _matrix(similarity)
    if similarity.shape != (len(partner), len(partner)):
        raise UserError(
            f"the similarity has shape {list(similarity.shape)}, but there are "
            f"{len(partner)} items, each with one text"
        )
    index = np.arange(len(partner))
    own = _float32(similarity[index, index])

    def won(other: np.ndarray) -> np.ndarray:
        other = _float32(other)
        return (own > other) + 0.5 * (own == other)

    return won(similarity[index, partner]), won(similarity[partner, index])
