"""Ranks by loops, corrections and draws on complete arrays, matrices with ties."""

import math

import numpy as np

from vop_jax.scoring.metrics import summary

SHARES = {"mean": 0.5, "optimistic": 0.0, "pessimistic": 1.0}


def slow_ranks(row, right, others, ties):
    """The ranks of one query; several only with clip4clip."""
    greater = sum(1 for i in others if row[i] > row[right])
    equal = sum(1 for i in others if row[i] == row[right])
    if ties == "clip4clip":
        return [1 + greater + i for i in range(equal + 1)]
    return [1 + greater + SHARES[ties] * equal]


def matrix(kind, texts, videos, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "tied":
        return rng.integers(0, 4, (texts, videos)).astype(np.float32)
    return rng.normal(size=(texts, videos)).astype(np.float32)


def slow_ways(similarity, right, ties):
    """The ranks of each query, a list per query, and its video, by direction."""
    texts, videos = similarity.shape
    asked = sorted(set(right.tolist()))
    t2v = [
        slow_ranks(row, own, [j for j in range(videos) if j != own], ties)
        for row, own in zip(similarity, right, strict=True)
    ]
    v2t, best_caption = [], []
    for v in asked:
        # What video v finds in the best text of each video.
        best = {w: max(similarity[right == w, v]) for w in asked}
        v2t.append(slow_ranks(best, v, [w for w in asked if w != v], ties))
        own = [t for t in range(texts) if right[t] == v]
        others = [t for t in range(texts) if right[t] != v]
        text = max(own, key=lambda t: similarity[t, v])
        best_caption.append(slow_ranks(similarity[:, v], text, others, ties))
    ways = {"t2v": (t2v, right.tolist()), "v2t": (v2t, asked)}
    if len(asked) < texts:
        ways["v2t_best_caption"] = best_caption, asked
    return ways


def slow_intervals(per_query, videos, resamples, seed):
    """Each sample as the list of its ranks."""
    names = sorted(set(videos))
    clusters = [
        [
            rank
            for ranks, video in zip(per_query, videos, strict=True)
            if video == name
            for rank in ranks
        ]
        for name in names
    ]
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        times = random.multinomial(len(names), [1 / len(names)] * len(names))
        ranks = [
            rank
            for own, count in zip(clusters, times, strict=True)
            for rank in own * count
        ]
        values = np.array(ranks, np.float64)
        recalls = [100 * np.sum(values <= k) / len(values) for k in (1, 5, 10)]
        mean = np.sum(values) / len(values)
        gained = sum(round(2**32 / math.log2(1 + x)) / 2**32 for x in ranks if x <= 10)
        ndcg = 100 * gained / len(values)
        drawn.append([*recalls, np.median(values), mean, ndcg])
    ends = np.percentile(drawn, [2.5, 97.5], axis=0).T.tolist()
    return dict(zip(summary(np.ones(1)), ends, strict=True))


def whole_dual_softmax(similarity, temperature):
    """`hub_corrections.dual_softmax` on the complete matrix."""
    logits = similarity.astype(np.float64) / temperature
    highest = logits.max(axis=0)
    total = highest + np.log(np.exp(logits - highest).sum(axis=0))
    with np.errstate(divide="ignore"):
        size = np.log(np.abs(similarity.astype(np.float64))) + logits - total
    zero = similarity == 0
    least = np.min(size, axis=1, keepdims=True, where=~zero, initial=np.inf)
    size = np.where(zero, 0, size - np.where(np.isfinite(least), least, 0) + 1)
    return (np.sign(similarity) * size).astype(np.float32)


def whole_querybank_norm(similarity, bank, beta):
    """`hub_corrections.querybank_norm` on the complete matrix."""
    logits = beta * bank.astype(np.float64)
    highest = logits.max(axis=0)
    total = highest + np.log(np.exp(logits - highest).sum(axis=0))
    active = set(bank.argmax(axis=1).tolist())
    rows = [
        row - total / beta if row.argmax() in active else row
        for row in similarity.astype(np.float64)
    ]
    return np.array(rows).astype(np.float32)


def held(correction):
    """The complete matrix of a `hub_corrections.Correction`."""
    return np.concatenate([block for _, block in correction.blocks()])
