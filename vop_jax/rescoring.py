"""Similarities corrected for hubs: videos that come up for too many queries.

Both corrections change only how one query's candidates are ordered. What they return
is on a logarithmic scale, where nothing over- or underflows: compare values within a
row, not between rows. For the other direction transpose, correct and transpose back.

Figures from them do not stand beside ordinary ones: `dual_softmax` looks at all test
queries at once, `querybank_norm` at further queries.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from data_pipelines.errors import UserError


def dual_softmax(
    similarity: Float[np.ndarray, "Q C"], temperature: float
) -> Float[np.ndarray, "Q C"]:
    """Each similarity times how much its candidate prefers this query.

    The prior of DSL (Cheng et al. 2021, "Improving Video-Text Retrieval by Multi-Stream
    Corpus Alignment and Dual Softmax Loss"), applied at test time:

        s'[q, c] = s[q, c] * exp(s[q, c] / T) / sum over q' of exp(s[q', c] / T)

    The sum is over all test queries, so a query's result depends on which others are
    asked: this is no retrieval of single queries.

    Args:
        similarity: of queries (rows) with candidates (columns).
        temperature: T. What CLIP multiplies a cosine by, exp(logit_scale), is 1 / T.

    Returns:
        float32, in each row ordered as s' is: sign(s') * (log|s'| - the row's least
        log|s'| + 1), and 0 where s' is 0.

    Raises:
        UserError: values that are not finite, or a temperature that is not positive.
    """
    similarity = _finite(similarity, "similarity")
    _positive(temperature, "the temperature of DSL")
    logits = similarity / temperature
    with np.errstate(divide="ignore"):
        size = np.log(np.abs(similarity)) + logits - _log_sum_exp(logits)
    zero = similarity == 0
    least = np.min(size, axis=1, keepdims=True, where=~zero, initial=np.inf)
    # Multiplied by a sign of 0, an infinite size would be no number.
    size = np.where(zero, 0, size - np.where(np.isfinite(least), least, 0) + 1)
    return (np.sign(similarity) * size).astype(np.float32)


def querybank_norm(
    similarity: Float[np.ndarray, "Q C"],
    bank: Float[np.ndarray, "B C"],
    beta: float = 20.0,
) -> Float[np.ndarray, "Q C"]:
    """Similarities divided by how close their candidate is to a bank of queries.

    QB-Norm with the Dynamic Inverted Softmax (Bogolin et al. 2022, "Cross Modal
    Retrieval with Querybank Normalisation", k = 1):

        s'[q, c] = exp(beta * s[q, c]) / sum over b of exp(beta * bank[b, c])

    for those queries whose best candidate is in the activation set: the candidates that
    are the best one of some query of the bank. All other rows stay as they are. Among
    equal candidates the first counts as the best.

    Args:
        similarity: of queries (rows) with candidates (columns).
        bank: of other queries, those of the training split, with the same candidates.
        beta: the inverse temperature; 20 is the paper's for cosines.

    Returns:
        float32, in each row ordered as s' is: log(s') / beta where it is normalised.

    Raises:
        UserError: values that are not finite, a bank of other candidates, or a beta
            that is not positive.
    """
    similarity = _finite(similarity, "similarity")
    bank = _finite(bank, "bank")
    _positive(beta, "the beta of QB-Norm")
    if bank.shape[1] != similarity.shape[1]:
        raise UserError(
            f"the bank is of {bank.shape[1]} candidates and the similarity of "
            f"{similarity.shape[1]}; they must be of the same ones"
        )
    active = np.zeros(bank.shape[1], bool)
    active[bank.argmax(axis=1)] = True
    normalised = active[similarity.argmax(axis=1)]
    changed = similarity - _log_sum_exp(beta * bank) / beta
    rows = np.where(normalised[:, None], changed, similarity)
    return rows.astype(np.float32)


def _log_sum_exp(logits: Float[np.ndarray, "Q C"]) -> Float[np.ndarray, "C"]:
    """log(sum(exp)) of each column."""
    highest = logits.max(axis=0)
    return highest + np.log(np.exp(logits - highest).sum(axis=0))


def _finite(values: Any, name: str) -> Float[np.ndarray, "Q C"]:
    """The values as a float64 matrix."""
    values = np.asarray(values)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiub":
        raise UserError(
            f"the {name} is {values.dtype} {list(values.shape)}; it is a matrix of "
            "real numbers, queries (rows) by candidates (columns)"
        )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise UserError(
            f"the {name} of query {row} with candidate {column} is "
            f"{values[row, column]}, not a finite number"
        )
    return values


def _positive(value: float, name: str) -> None:
    if not (np.isfinite(value) and value > 0):
        raise UserError(f"{name} is {value}; it must be positive")
