"""From similarities of moments to stretches of videos, best first."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vop_jax.index.tables import VideoRow
from vop_jax.index.view import View

# Videos are copies if they have equally many moments, last equally long (seconds, or a
# part of the longer), and every pair of moments has at least this cosine. With the
# demo's model a film that is encoded again has 0.999 or more (H.264 at CRF 28), and
# another film of the same look up to 0.9975.
_SAME_COSINE = 0.999
_SAME_SECONDS, _SAME_PART = 0.5, 0.01
# Sets behind the last hit that are looked at for copies of hits.
_BEHIND = 32


class Scored(NamedTuple):
    """Similarities of some moments to a query, ordered by moment.

    Attributes:
        moments: places in the view, ascending.
        similarities: of each; -inf for one that must not be found.
    """

    moments: Int[np.ndarray, "n"]
    similarities: Float[np.ndarray, "n"]


class Stretch(NamedTuple):
    """Neighbouring moments of a video that answer alike.

    Attributes:
        place: of the set in the view.
        first: place of its first moment in the view.
        last: of its last.
        best: of its most similar.
        similarity: of that.
        videos: with this content, also the near copies.
    """

    place: int
    first: int
    last: int
    best: int
    similarity: float
    videos: tuple[VideoRow, ...]


def stretches(
    moments: Int[np.ndarray, "n"],
    similarities: Float[np.ndarray, "n"],
    numbers: Int[np.ndarray, "n"],
    alike: float,
    most: int,
) -> list[tuple[int, int, int]]:
    """The best stretches of one video.

    A stretch is its best moment and the neighbours on both sides that are less similar
    by at most `alike`. That is how much the best answers to unrelated sentences differ
    among each other, so a smaller difference does not say which moment fits better.

    Args:
        moments: of the video, ascending.
        similarities: of each.
        numbers: of each, its position in the video.
        alike: the difference.
        most: number of stretches.

    Returns:
        First, last and best of each, as indices of the arguments, best first.
    """
    left = similarities.astype(np.float64).copy()
    found = []
    while len(found) < most and len(left) and np.isfinite(left.max()):
        best = first = last = int(left.argmax())
        least = left[best] - alike
        while first and numbers[first] - numbers[first - 1] == 1:
            if left[first - 1] < least:
                break
            first -= 1
        while last + 1 < len(left) and numbers[last + 1] - numbers[last] == 1:
            if left[last + 1] < least:
                break
            last += 1
        found.append((first, last, best))
        left[first : last + 1] = -np.inf
    return found


def ranked(
    view: View,
    scored: Scored,
    *,
    alike: float,
    top: int,
    per_video: int,
    allowed: Bool[np.ndarray, "S"] | None,
    prefer: Callable[[VideoRow], bool],
) -> list[Stretch]:
    """The best stretches of all videos; copies of a video are one hit.

    Args:
        view: the index.
        scored: the similarities.
        alike: see `stretches`.
        top: number of stretches.
        per_video: the most of one video.
        allowed: of each set, whether it may be found.
        prefer: which of several copies is the hit's video.
    """
    if not len(scored.moments):
        return []
    places = view.set_of(scored.moments)
    begins = np.flatnonzero(np.diff(places, prepend=-1))
    sets = places[begins]
    best = np.maximum.reduceat(scored.similarities, begins)
    if allowed is not None:
        best = np.where(allowed[sets], best, -np.inf)
    ends = np.append(begins[1:], len(places))
    order = _best_first(view, best, sets, top + _BEHIND)
    openings, _ = view.take(view.first[sets[order]])
    kept: list[tuple[int, int, list[VideoRow]]] = []
    for at, i in enumerate(order):
        place = int(sets[i])
        for other, kept_at, videos in kept:
            if _are_close(openings[kept_at], openings[at]) and _are_copies(
                view, int(sets[other]), place
            ):
                videos.extend(view.videos[place])
                break
        else:
            if len(kept) < top:
                kept.append((i, at, list(view.videos[place])))
    found = []
    for i, _, videos in kept:
        part = slice(begins[i], ends[i])
        moments = scored.moments[part]
        # The preferred copy first, then by name.
        videos.sort(key=lambda row: (not prefer(row), row.path))
        for first, last, top_one in stretches(
            moments,
            scored.similarities[part],
            view.numbers[moments],
            alike,
            per_video,
        ):
            found.append(
                Stretch(
                    int(sets[i]),
                    int(moments[first]),
                    int(moments[last]),
                    int(moments[top_one]),
                    float(scored.similarities[part][top_one]),
                    tuple(videos),
                )
            )
    # Equally similar ones by name, so that an answer is always the same.
    found.sort(key=lambda x: (-x.similarity, x.videos[0].path, x.first))
    return found[:top]


def _best_first(view: View, best: np.ndarray, sets: np.ndarray, most: int) -> list[int]:
    """The indices of the most similar sets, in order."""
    finite = int(np.isfinite(best).sum())
    count = min(most, finite)
    if not count:
        return []
    limit = np.partition(best, len(best) - count)[len(best) - count]
    held = np.flatnonzero(best >= limit)
    order = sorted(
        held.tolist(), key=lambda i: (-best[i], view.videos[int(sets[i])][0].path)
    )
    return order[:count]


def _are_copies(view: View, one: int, other: int) -> bool:
    """Whether two sets are of the same film, encoded twice."""
    counts = view.first[[one + 1, other + 1]] - view.first[[one, other]]
    lengths = view.videos[one][0].duration, view.videos[other][0].duration
    most = max(_SAME_SECONDS, _SAME_PART * max(lengths))
    if counts[0] != counts[1] or abs(lengths[0] - lengths[1]) > most:
        return False
    a, _ = view.take(np.arange(view.first[one], view.first[one + 1]))
    b, _ = view.take(np.arange(view.first[other], view.first[other + 1]))
    return bool(np.all(_are_close(a, b)))


def _are_close(a: Float[np.ndarray, "*n E"], b: Float[np.ndarray, "*n E"]) -> Any:
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(axis=-1) >= _SAME_COSINE * lengths
