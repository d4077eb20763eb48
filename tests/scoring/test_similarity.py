"""What stands for a large similarity matrix gives the matrix's figures."""

import tracemalloc

import numpy as np
import pytest

from data_pipelines.console.errors import UserError
from vop_jax.scoring import similarity
from vop_jax.scoring.event_order import order_accuracies
from vop_jax.scoring.metrics import retrieval_counts, retrieval_metrics
from vop_jax.scoring.similarity import Similarity, similarity_of
from vop_jax.scoring.ties import TIES


def features(count, seed):
    # Whole numbers: exact products, and many ties.
    return np.random.default_rng(seed).integers(-2, 3, (count, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(Similarity, "block", 500)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("several", [False, True])
def test_same_figures_as_the_matrix(ties, several):
    texts, videos = features(90, 0), features(90, 1)
    right = np.arange(90) // 3 if several else np.arange(90)
    lazy, whole = Similarity(texts, videos), texts @ videos.T
    want = retrieval_metrics(whole, right, ties)
    assert retrieval_metrics(lazy, right, ties) == want
    for way, found in retrieval_counts(whole, right).items():
        got = retrieval_counts(lazy, right)[way]
        np.testing.assert_array_equal(got, found)
    # Negative control: other features have other figures.
    assert retrieval_metrics(Similarity(texts[::-1], videos), right, ties) != want


def test_pairs_are_looked_up():
    texts, videos = features(8, 0), features(8, 1)
    clips = {"group": [0] * 4 + [1] * 4, "variant": [0, 0, 1, 1] * 2}
    clips |= {"twin": [0, 1] * 4, "family": ["a"] * 8}
    want = order_accuracies(texts @ videos.T, **clips)
    assert order_accuracies(Similarity(texts, videos), **clips) == want


def test_rows_are_looked_up():
    """As the report of a run shows its examples."""
    texts, videos = features(8, 0), features(8, 1)
    for key in (3, slice(2, 5)):
        found = Similarity(texts, videos)[key]
        np.testing.assert_array_equal(found, (texts @ videos.T)[key])


def test_the_matrix_is_never_held(monkeypatch):
    monkeypatch.setattr(Similarity, "block", 1 << 16)
    texts, videos = features(1500, 0), features(1500, 1)
    tracemalloc.start()
    retrieval_metrics(Similarity(texts, videos))
    lazy = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    retrieval_metrics(texts @ videos.T)
    whole = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lazy < 3e6 < 9e6 <= whole


def test_each_product_is_computed_once_for_both_directions(monkeypatch):
    """Besides those with a correct pair, whose values are looked up first."""
    monkeypatch.setattr(Similarity, "block", 100)
    computed = []
    tile = Similarity.tile

    def counted(self, rows, columns):
        computed.append((rows[0], columns.start))
        return tile(self, rows, columns)

    monkeypatch.setattr(Similarity, "tile", counted)
    retrieval_metrics(Similarity(features(90, 0), features(90, 1)))
    parts = range(0, 90, 10)
    diagonal = {(start, start) for start in parts}
    assert set(computed) == {(row, column) for row in parts for column in parts}
    assert len(computed) == 81 + 9
    assert {x for x in computed if computed.count(x) > 1} == diagonal


def test_a_pair_is_as_similar_as_itself():
    """Its value is that of the product which is compared, to the last bit."""
    texts, videos = np.random.default_rng(0).standard_normal((2, 200, 300), np.float32)
    similarity, every = Similarity(texts, videos), np.arange(200)
    # Negative control: another product of the same features has other last bits.
    tiles = [similarity.tile(every, part) for part in similarity.columns()]
    pairs = np.concatenate(tiles, axis=1)[every, every]
    assert (pairs != similarity[every, every]).any()
    for found in retrieval_counts(similarity).values():
        assert (found.tied == 0).all()


def test_only_a_large_matrix_is_not_made(monkeypatch):
    texts, videos = features(5, 0), features(4, 1)
    assert isinstance(similarity_of(texts, videos), np.ndarray)
    monkeypatch.setattr(similarity, "LARGEST", 19)
    assert isinstance(similarity_of(texts, videos), Similarity)


def test_features_that_are_not_finite_are_named():
    texts, videos = features(5, 0), features(5, 1)
    videos[3, 1] = np.nan
    with pytest.raises(UserError, match="features of video 3"):
        retrieval_metrics(Similarity(texts, videos))


@pytest.mark.parametrize("where", ["texts", "videos", "both"])
def test_products_that_overflow_are_refused(where):
    texts, videos = features(9, 0), features(9, 1)
    large = np.float32(1e38)
    if where != "videos":
        texts = texts * (np.float32(1e20) if where == "both" else large)
    if where != "texts":
        videos = videos * (np.float32(1e20) if where == "both" else large)
    with pytest.raises(UserError, match="so large"):
        retrieval_metrics(Similarity(texts, videos))
    retrieval_metrics(Similarity(features(9, 0) * np.float32(1e18), features(9, 1)))


def test_maps_of_small_integers_fit_any_number_of_videos(monkeypatch):
    monkeypatch.setattr(Similarity, "block", 100)
    similarity, right = Similarity(features(40, 0), features(400, 1)), np.arange(40)
    wanted = retrieval_metrics(similarity, right)
    assert retrieval_metrics(similarity, right.astype(np.uint8)) == wanted
