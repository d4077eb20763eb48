"""Retrieval metrics: ranks, recalls, and what ties mean."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.errors import UserError

TIES = ("mean", "optimistic", "pessimistic", "clip4clip")
_BLOCK = 1024


def retrieval_metrics(
    similarity: Float[np.ndarray, "T V"],
    video_of_text: Int[np.ndarray, "T"] | None = None,
    ties: str = "mean",
) -> dict[str, dict[str, float]]:
    """Text-to-video and video-to-text metrics of a similarity matrix.

    Args:
        similarity: of every text (row) with every video (column).
        video_of_text: the right video of each text; None means the diagonal of a
            square matrix.
        ties: what equal similarities do to a rank of 1 + the number of greater ones:
            `mean` adds half of the ties, `optimistic` none, `pessimistic` all;
            `clip4clip` counts one query once for each of its ties, as that system does.

    Returns:
        `{"t2v": {"R@1", "R@5", "R@10", "MdR", "MnR"}, "v2t": {...}}`, recalls in
        percent. With several texts for a video, t2v averages over texts, `v2t` takes a
        video's texts together as their best one, and `v2t_best_caption` is the rank of
        a video's best own text among all texts.

    Raises:
        UserError: not a matrix, a map that does not fit, or a value that is not finite.
    """
    similarity, right = _checked(similarity, video_of_text, ties)
    texts, videos = similarity.shape
    results = {"t2v": summary(text_ranks(similarity, right, ties))}
    if texts == videos and len(np.unique(right)) == videos:
        order = np.argsort(right)
        square = similarity[order].T
        results["v2t"] = summary(text_ranks(square, np.arange(videos), ties))
        return results
    results["v2t"] = summary(_collapsed_ranks(similarity, right, ties))
    results["v2t_best_caption"] = summary(_best_caption_ranks(similarity, right, ties))
    return results


def summary(ranks: Float[np.ndarray, "Q"]) -> dict[str, float]:
    """Recalls in percent, the median and the mean of ranks that start at 1."""
    recalls = {f"R@{k}": 100 * float(np.mean(ranks <= k)) for k in (1, 5, 10)}
    return recalls | {"MdR": float(np.median(ranks)), "MnR": float(np.mean(ranks))}


def text_ranks(
    similarity: Float[np.ndarray, "T V"],
    video_of_text: Int[np.ndarray, "T"],
    ties: str = "mean",
) -> Float[np.ndarray, "Q"]:
    """The rank of each text's video; with `clip4clip` there may be more of them."""
    ranks = []
    for start in range(0, len(similarity), _BLOCK):
        rows = similarity[start : start + _BLOCK]
        right = video_of_text[start : start + _BLOCK, None]
        own = np.take_along_axis(rows, right, axis=1)
        ranks += list(_ranks((rows > own).sum(1), (rows == own).sum(1) - 1, ties))
    return np.asarray(ranks, np.float32)


def _ranks(
    greater: Int[np.ndarray, "Q"], tied: Int[np.ndarray, "Q"], ties: str
) -> Iterator[float]:
    """Ranks from the numbers of greater and of other equal similarities."""
    for above, equal in zip(greater.tolist(), tied.tolist(), strict=True):
        if ties == "clip4clip":
            yield from range(above + 1, above + equal + 2)
        else:
            share = {"mean": equal / 2, "optimistic": 0, "pessimistic": equal}[ties]
            yield 1 + above + share


def _collapsed_ranks(similarity, video_of_text, ties) -> np.ndarray:
    """Video-to-text ranks where a video's texts stand for their best one."""
    videos = similarity.shape[1]
    best = np.full((videos, videos), -np.inf, np.float32)
    # best[v, w]: video v against the best of video w's texts.
    for text, video in enumerate(video_of_text):
        np.maximum(best[:, video], similarity[text], out=best[:, video])
    asked = np.unique(video_of_text)
    return text_ranks(best[asked], asked, ties)


def _best_caption_ranks(similarity, video_of_text, ties) -> np.ndarray:
    """The rank of each video's best own text among all texts."""
    ranks = []
    for video in np.unique(video_of_text):
        column = similarity[:, video]
        own = column[video_of_text == video].max()
        greater = np.array([(column > own).sum()])
        # Equal own texts are as right as the best one; only others' ties count.
        tied = np.array([((column == own) & (video_of_text != video)).sum()])
        ranks += list(_ranks(greater, tied, ties))
    return np.asarray(ranks, np.float32)


def _checked(
    similarity: Any, video_of_text: Any, ties: str
) -> tuple[np.ndarray, np.ndarray]:
    similarity = np.asarray(similarity, np.float32)
    if ties not in TIES:
        raise UserError(f"ties is {ties!r}; it is one of {', '.join(TIES)}")
    if similarity.ndim != 2 or not similarity.size:
        raise UserError(
            f"the similarity has shape {list(similarity.shape)}; it is a matrix of "
            "texts (rows) by videos (columns)"
        )
    if not np.isfinite(similarity).all():
        raise UserError("the similarity holds values that are not finite numbers")
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
            f"{videos} videos"
        )
    return similarity, video_of_text


def pair_accuracy(
    similarity: Float[np.ndarray, "N N"], partner: Int[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """How often the own match beats one chosen partner's, t2v and v2t per item.

    Args:
        similarity: square, text i belonging to video i.
        partner: the item that item i is compared with.

    Returns:
        1 where the own match is the closer, 0.5 where both are equal, 0 otherwise.
    """
    index = np.arange(len(partner))
    own = similarity[index, index]

    def won(other: np.ndarray) -> np.ndarray:
        return (own > other) + 0.5 * (own == other)

    return won(similarity[index, partner]), won(similarity[partner, index])
