"""Retrieval metrics: ranks, tie policies, recalls."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.console.errors import UserError
from vop_jax.scoring.blocks import as_float32, slices
from vop_jax.scoring.counts import Counts, count
from vop_jax.scoring.similarity import Similarity
from vop_jax.scoring.ties import TIES
from vop_jax.surface.inputs import as_array, kind_of


def retrieval_metrics(
    similarity: Float[np.ndarray, "T V"] | Similarity,
    video_of_text: Int[np.ndarray, "T"] | None = None,
    ties: str = "mean",
) -> dict[str, dict[str, float]]:
    """Text-to-video and video-to-text metrics of a similarity matrix.

    Similarities are compared as float32. The matrix is read in blocks and never copied.

    Args:
        similarity: of every text (row) with every video (column); a matrix, or a
            `similarity.Similarity`, of which only one block exists at a time.
        video_of_text: the correct video of each text; None means the diagonal of a
            square matrix. A video without a text is a candidate, but not a query.
        ties: how similarities that equal the correct one count. The rank is 1 + the
            number of greater ones, and `mean` adds half of the ties, `optimistic` none,
            `pessimistic` all. `clip4clip` counts a query once for each of its ties, at
            every rank they take, and divides by that count, which is the effect of
            CLIP4Clip's `np.where(np.sort(-x) - np.diag(-x)[:, None] == 0)`.

    Returns:
        `{"t2v": {"R@1", "R@5", "R@10", "MdR", "MnR", "nDCG@10"}, "v2t": {...}}`,
        recalls and nDCG in percent. If a video has several texts, t2v averages over
        texts, `v2t` ranks videos by the best text of each, and `v2t_best_caption` is
        the rank of a video's best own text among all texts. Each has one right answer
        a query, which is also what nDCG counts as relevant.

    Raises:
        UserError: it is not a matrix, the map does not fit, or a value is not finite.
    """
    check_ties(ties)
    return by_direction(retrieval_counts(similarity, video_of_text), ties)


def retrieval_counts(
    similarity: Float[np.ndarray, "T V"] | Similarity,
    video_of_text: Int[np.ndarray, "T"] | None = None,
) -> dict[str, Counts]:
    """The counts that the metrics follow from, by direction; see `counts.count`.

    Arguments and errors are those of `retrieval_metrics`.
    """
    return count(*_checked(similarity, video_of_text))


def by_direction(counts: dict[str, Counts], ties: str) -> dict[str, dict[str, float]]:
    """The metrics of each direction, from its counts."""
    return {way: summary(found.ranks(ties)) for way, found in counts.items()}


def gains(ranks: Float[np.ndarray, "Q"]) -> Float[np.ndarray, "Q"]:
    """What each rank contributes to nDCG@10, from 0 to 1.

    One answer of a query is right, so that the ideal gain is 1: 1 / log2(1 + rank) of
    the ranks up to 10 (Järvelin and Kekäläinen, 2002, of binary relevance). Rounded to
    2^-32, sums of up to a million are exact in float64, in any order.
    """
    ranks = np.asarray(ranks, np.float64)
    rounded = np.round(2**32 / np.log2(1 + ranks)) / 2**32
    return np.where(ranks <= 10, rounded, 0.0)


def summary(ranks: Float[np.ndarray, "Q"]) -> dict[str, float]:
    """Recalls and nDCG@10 in percent, the median and the mean of ranks from 1."""
    recalls = {f"R@{k}": 100 * float(np.mean(ranks <= k)) for k in (1, 5, 10)}
    # Summed in float64: float32 is not precise enough for a million ranks.
    mean = float(np.mean(ranks, dtype=np.float64))
    ndcg = 100 * float(np.mean(gains(ranks)))
    return recalls | {"MdR": float(np.median(ranks)), "MnR": mean, "nDCG@10": ndcg}


def check_ties(ties: Any) -> None:
    """Checks the name of a tie policy.

    Raises:
        UserError: there is no such policy.
    """
    if not isinstance(ties, str) or ties not in TIES:
        given = repr(ties[:40]) if isinstance(ties, str) else kind_of(ties)
        raise UserError(f"ties is {given}; it is one of {', '.join(TIES)}")


def _checked(
    similarity: Any, video_of_text: Any
) -> tuple[np.ndarray | Similarity, np.ndarray]:
    similarity = checked_matrix(similarity)
    texts, videos = similarity.shape
    if video_of_text is None:
        if texts != videos:
            raise UserError(
                f"{texts} texts and {videos} videos: pass the video of each text "
                "(video_of_text)"
            )
        video_of_text = np.arange(texts)
    video_of_text = as_array(video_of_text, "video_of_text")
    if (
        video_of_text.shape != (texts,)
        or not np.issubdtype(video_of_text.dtype, np.integer)
        or video_of_text.min() < 0
        or video_of_text.max() >= videos
    ):
        raise UserError(
            f"video_of_text must hold, for each of {texts} texts, the index of one of "
            f"{videos} videos, from 0; it is {kind_of(video_of_text)}"
        )
    return similarity, video_of_text.astype(np.int64)


def checked_matrix(similarity: Any) -> np.ndarray | Similarity:
    """The similarity, checked to be a finite real matrix, not copied.

    Raises:
        UserError: it is not.
    """
    if isinstance(similarity, Similarity):
        for features, kind in zip(similarity.features, ("text", "video"), strict=True):
            good = np.isfinite(features).all(axis=1)
            if not good.all():
                raise UserError(
                    f"the features of {kind} {int(np.argmin(good))} are not finite"
                )
        # A bound on every product, so that none has to be computed for the check.
        texts, videos = (
            max(float(x.max()), -float(x.min())) for x in similarity.features
        )
        width = similarity.features[0].shape[1]
        if texts * videos * width > float(np.finfo(np.float32).max):
            raise UserError(
                "the features are so large that their similarities may overflow; "
                "normalise them"
            )
        return similarity
    similarity = as_array(similarity, "the similarity")
    if similarity.ndim != 2 or not similarity.size:
        raise UserError(
            f"the similarity has shape {list(similarity.shape)}; it is a matrix of "
            "texts (rows) by videos (columns)"
        )
    # bfloat16 is not a NumPy dtype of its own; its kind is that of raw bytes.
    if similarity.dtype.kind not in "fiub" and similarity.dtype.name != "bfloat16":
        raise UserError(f"the similarity holds {similarity.dtype}, not real numbers")
    for rows in slices(*similarity.shape):
        good = np.isfinite(as_float32(similarity[rows]))
        if not good.all():
            row, column = np.argwhere(~good)[0]
            raise UserError(
                f"the similarity of text {rows.start + row} with video {column} is "
                f"{similarity[rows.start + row, column]}, not a finite float32; check "
                "the features"
            )
    return similarity
