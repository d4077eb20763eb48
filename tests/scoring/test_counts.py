"""One pass of counts gives what loops over every query, policy and sample give."""

import json

import numpy as np
import pytest
from slow_metrics import (
    matrix,
    slow_intervals,
    slow_ways,
    whole_dual_softmax,
    whole_querybank_norm,
)

from vop_jax.scoring import blocks
from vop_jax.scoring.evaluation import Evaluation
from vop_jax.scoring.metrics import by_direction, retrieval_counts, summary
from vop_jax.scoring.ties import TIES

TEMPERATURE, BETA, RESAMPLES, SEED = 0.4, 1.5, 40, 3


def slow_evaluation(similarity, right, ties, bank, video_bank):
    """What `Evaluation.as_json` has, by loops."""

    def metrics(ways):
        return {
            way: summary(np.float32(np.concatenate(per_query)))
            for way, (per_query, _) in ways.items()
        }

    def intervals(ways):
        return {
            way: slow_intervals(*found, RESAMPLES, SEED) for way, found in ways.items()
        }

    def only(way, changed):
        ways = slow_ways(changed, right, ties)
        return {key: found for key, found in ways.items() if key.startswith(way)}

    ways = slow_ways(similarity, right, ties)
    both = {x: slow_ways(similarity, right, x) for x in ("optimistic", "pessimistic")}
    dsl = only("t2v", whole_dual_softmax(similarity, TEMPERATURE))
    dsl |= only("v2t", whole_dual_softmax(similarity.T, TEMPERATURE).T)
    norm = only("t2v", whole_querybank_norm(similarity, bank, BETA))
    norm |= only("v2t", whole_querybank_norm(similarity.T, video_bank.T, BETA).T)
    drawing = {"level": 95, "resamples": RESAMPLES, "seed": SEED}
    return {
        **metrics(ways),
        "ties": ties,
        "counted": {
            way: sum(map(len, per_query)) for way, (per_query, _) in ways.items()
        },
        "intervals": drawing | intervals(ways),
        "tied_queries": {
            way: int(np.sum(np.not_equal(low, both["pessimistic"][way][0])))
            for way, (low, _) in both["optimistic"].items()
        },
        "by_ties": {x: metrics(slow_ways(similarity, right, x)) for x in TIES},
        "corrected": {
            "DSL": {"temperature": TEMPERATURE, "intervals": intervals(dsl)}
            | metrics(dsl),
            "QB-Norm": {"beta": BETA, "bank": len(bank), "intervals": intervals(norm)}
            | {"video_bank": video_bank.shape[1]}
            | metrics(norm),
        },
    }


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize(
    ("texts", "videos", "asked"),
    [(20, 20, None), (40, 9, 9), (33, 12, 5), (300, 2, 2), (3, 290, 2)],
)
@pytest.mark.parametrize("values", [1 << 18, 40])
def test_all_numbers_to_the_last_digit(
    monkeypatch, ties, kind, texts, videos, asked, values
):
    monkeypatch.setattr(blocks, "VALUES", values)
    rng = np.random.default_rng(4)
    similarity = matrix(kind, texts, videos)
    bank, video_bank = matrix(kind, 30, videos, 1), matrix(kind, texts, 25, 2)
    right = np.arange(texts)
    if asked is not None:
        right = rng.permutation(np.resize(rng.permutation(videos)[:asked], texts))
    counts = retrieval_counts(similarity, right)
    found = Evaluation(
        title="a matrix",
        similarity=similarity,
        video_of_text=right,
        counts=counts,
        results=by_direction(counts, ties),
        ties=ties,
        temperature=TEMPERATURE,
        bank=bank,
        video_bank=video_bank,
        beta=BETA,
        resamples=RESAMPLES,
        seed=SEED,
    ).as_json()
    expected = slow_evaluation(similarity, right, ties, bank, video_bank)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(expected))


def test_a_matrix_is_read_once(monkeypatch):
    """Once for the check and once for all directions, policies and metrics."""
    similarity = matrix("random", 120, 60)
    monkeypatch.setattr(blocks, "VALUES", 600)
    read = []

    class Watched(np.ndarray):
        def __getitem__(self, key):
            if isinstance(key, slice):
                read.append(range(*key.indices(120)))
            return np.asarray(super().__getitem__(key))

    monkeypatch.setattr(
        "vop_jax.scoring.metrics.checked_matrix", lambda x: x.view(Watched)
    )
    counts = retrieval_counts(similarity, np.arange(120) // 2)
    for ties in TIES:
        by_direction(counts, ties)
    assert sorted(i for rows in read for i in rows) == list(range(120))
