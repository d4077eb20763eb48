"""What stands for a large similarity matrix gives the matrix's figures."""

import tracemalloc

import numpy as np
import pytest

from data_pipelines.errors import UserError
from vop_jax import similarity
from vop_jax.evaluation import directions
from vop_jax.metrics import TIES, retrieval_metrics, twin_accuracy
from vop_jax.similarity import Similarity, similarity_of


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
    for way, found in directions(whole, right, ties).items():
        got = directions(lazy, right, ties)[way]
        np.testing.assert_array_equal(got.ranks, found.ranks)
    # Negative control: other features have other figures.
    assert retrieval_metrics(Similarity(texts[::-1], videos), right, ties) != want


def test_pairs_are_looked_up():
    texts, videos = features(8, 0), features(8, 1)
    clips = {"group": [0] * 4 + [1] * 4, "variant": [0, 0, 1, 1] * 2}
    clips |= {"twin": [0, 1] * 4, "family": ["a"] * 8}
    want = twin_accuracy(texts @ videos.T, **clips)
    assert twin_accuracy(Similarity(texts, videos), **clips) == want


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
