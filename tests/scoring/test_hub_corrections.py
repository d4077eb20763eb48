"""Corrections for hubs against their formulas."""

import itertools
import tracemalloc
from decimal import Decimal

import numpy as np
import pytest
from slow_metrics import held, whole_dual_softmax, whole_querybank_norm

from data_pipelines.console.errors import UserError
from vop_jax.scoring import blocks
from vop_jax.scoring.counts import count_corrected
from vop_jax.scoring.hub_corrections import dual_softmax, querybank_norm


def cosines(queries, candidates, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.2, 0.6, (queries, candidates)).astype(np.float32)


def slow_dual_softmax(similarity, temperature):
    rows = [[Decimal(float(x)) for x in row] for row in similarity]
    exponentials = [[(x / Decimal(temperature)).exp() for x in row] for row in rows]
    totals = [sum(column) for column in zip(*exponentials, strict=True)]
    return [
        [x * e / total for x, e, total in zip(row, own, totals, strict=True)]
        for row, own in zip(rows, exponentials, strict=True)
    ]


def slow_querybank_norm(similarity, bank, beta):
    def best(row):
        return max(range(len(row)), key=lambda i: row[i])

    active = {best(row) for row in bank}
    totals = [
        sum((Decimal(float(x)) * Decimal(beta)).exp() for x in column)
        for column in zip(*bank, strict=True)
    ]
    changed = []
    for row in similarity:
        values = [Decimal(float(x)) for x in row]
        if best(row) in active:
            values = [
                (x * Decimal(beta)).exp() / total
                for x, total in zip(values, totals, strict=True)
            ]
        changed.append(values)
    return changed


def check_order(found, expected):
    """Whether each row is in the order of exact numbers."""
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    for row, exact in zip(found, expected, strict=True):
        for i, j in itertools.combinations(range(len(exact)), 2):
            if exact[i] == exact[j]:
                assert row[i] == row[j]
            # float32 tells apart what differs by more than its own rounding.
            elif abs(exact[i] - exact[j]) > Decimal("1e-4") * abs(exact[i]):
                assert (row[i] > row[j]) == (exact[i] > exact[j])


# At 0.0005 the factors span a thousand powers of e, far beyond float64's.
@pytest.mark.parametrize("temperature", [1.0, 0.01, 0.0005])
def test_dual_softmax(temperature):
    similarity = cosines(9, 14)
    similarity[2, 3] = similarity[5, 6] = 0
    similarity[7] = 0
    found = held(dual_softmax(similarity, temperature))
    check_order(found, slow_dual_softmax(similarity, temperature))
    np.testing.assert_array_equal(np.sign(found), np.sign(similarity))


def test_dual_softmax_gives_a_hub_to_who_needs_it_most():
    similarity = np.array([[0.5, 0.6], [0.1, 0.9]], np.float32)
    assert similarity.argmax(1).tolist() == [1, 1]
    assert held(dual_softmax(similarity, 0.1)).argmax(1).tolist() == [0, 1]


# At 5000 the sums are beyond float64.
@pytest.mark.parametrize("beta", [1.0, 20.0, 5000.0])
@pytest.mark.parametrize("bank_queries", [1, 4, 60])
def test_querybank_norm(beta, bank_queries):
    similarity, bank = cosines(25, 14), cosines(bank_queries, 14, seed=1)
    expected = slow_querybank_norm(similarity, bank, beta)
    found = held(querybank_norm(similarity, bank, beta))
    check_order(found, expected)
    kept = [
        row == [Decimal(float(x)) for x in own]
        for row, own in zip(expected, similarity, strict=True)
    ]
    np.testing.assert_array_equal(found[kept], similarity[kept])
    if bank_queries == 4:
        assert 0 < sum(kept) < len(kept)


def test_equal_candidates_stay_equal():
    similarity, bank = cosines(6, 5), cosines(8, 5, seed=1)
    similarity[:, 3], bank[:, 3] = similarity[:, 1], bank[:, 1]
    for found in (dual_softmax(similarity, 0.01), querybank_norm(similarity, bank)):
        found = held(found)
        np.testing.assert_array_equal(found[:, 1], found[:, 3])


def test_the_input_is_left_as_it_was():
    similarity, bank = cosines(4, 4), cosines(4, 4, seed=1)
    similarity.flags.writeable = bank.flags.writeable = False
    held(dual_softmax(similarity, 0.01))
    held(querybank_norm(similarity, bank))


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_constants_are_positive(temperature):
    with pytest.raises(UserError, match="must be positive"):
        dual_softmax(np.eye(2), temperature)
    with pytest.raises(UserError, match="must be positive"):
        querybank_norm(np.eye(2), np.eye(2), temperature)


@pytest.mark.parametrize(
    ("bank", "says"),
    [
        (np.ones((3, 4)), "has 4 candidates and the similarity has 2"),
        (np.ones(2), r"bank is float64 \[2\]"),
        (np.ones((0, 2)), "matrix of real numbers"),
        (np.array([["a", "b"]]), "matrix of real numbers"),
        (np.array([[0, np.nan]]), "bank of query 0 with candidate 1 is nan"),
    ],
)
def test_banks_that_are_refused(bank, says):
    with pytest.raises(UserError, match=says):
        querybank_norm(np.eye(2), bank)


@pytest.mark.parametrize("values", [1 << 18, 50, 1])
@pytest.mark.parametrize("transposed", [False, True])
def test_blocks_change_no_bit(monkeypatch, values, transposed):
    monkeypatch.setattr(blocks, "VALUES", values)
    similarity, bank = cosines(40, 23), cosines(12, 23, seed=1)
    similarity[3, 4] = 0
    if transposed:
        # As the video-to-text direction passes them.
        similarity, bank = (np.asfortranarray(x) for x in (similarity, bank))
    np.testing.assert_array_equal(
        held(dual_softmax(similarity, 0.01)), whole_dual_softmax(similarity, 0.01)
    )
    np.testing.assert_array_equal(
        held(querybank_norm(similarity, bank, 20)),
        whole_querybank_norm(similarity, bank, 20),
    )


@pytest.mark.parametrize("way", ["t2v", "v2t"])
def test_a_corrected_matrix_is_never_held(monkeypatch, way):
    monkeypatch.setattr(blocks, "VALUES", 1 << 14)
    similarity = cosines(1000, 1000)
    bank = cosines(1000, 1000, seed=1)
    if way == "v2t":
        similarity, bank = similarity.T, bank.T
    tracemalloc.start()
    try:
        for correction in (
            dual_softmax(similarity, 0.01),
            querybank_norm(similarity, bank),
        ):
            count_corrected(correction, np.arange(1000), way)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        held(dual_softmax(similarity, 0.01))
        complete = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < similarity.nbytes / 2 < similarity.nbytes <= complete


def test_a_value_of_a_later_block_is_named_by_its_place(monkeypatch):
    monkeypatch.setattr(blocks, "VALUES", 8)
    bank = np.zeros((9, 4))
    bank[7, 2] = np.inf
    with pytest.raises(UserError, match="bank of query 7 with candidate 2 is inf"):
        querybank_norm(np.eye(4), bank)
