"""Hub corrections: DSL and QB-Norm, against videos that rank high for many queries.

Both change only the order of one query's candidates. They return values on a
logarithmic scale, where nothing overflows or underflows: compare values within a row,
not between rows. For the other direction transpose the matrix. The corrected matrix is
never held: it is computed in blocks of rows.

Their metrics are not comparable to ordinary ones, because `dual_softmax` uses all test
queries at once and `querybank_norm` uses other queries.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from data_pipelines.console.errors import UserError
from vop_jax.scoring.blocks import slices


class Correction:
    """A corrected similarity of queries (rows) with candidates (columns).

    Args:
        similarity: `[Q, C]`, before the correction.
        change: the correction of some rows, in float64.
    """

    def __init__(
        self,
        similarity: Float[np.ndarray, "Q C"],
        change: Callable[[np.ndarray], np.ndarray],
    ):
        self._similarity, self._change = similarity, change

    def blocks(self) -> Iterator[tuple[slice, Float[np.ndarray, "R C"]]]:
        """Ranges of queries, each with its corrected rows in float32."""
        for rows in slices(*self._similarity.shape):
            block = self._similarity[rows].astype(np.float64)
            yield rows, self._change(block).astype(np.float32)


def dual_softmax(
    similarity: Float[np.ndarray, "Q C"], temperature: float
) -> Correction:
    """Each similarity times the softmax of its candidate over all queries.

    The prior of DSL (Cheng et al. 2021, "Improving Video-Text Retrieval by Multi-Stream
    Corpus Alignment and Dual Softmax Loss"), applied at test time:

        s'[q, c] = s[q, c] * exp(s[q, c] / T) / sum over q' of exp(s[q', c] / T)

    The sum is over all test queries, so the result of a query depends on the others;
    this is not retrieval for single queries.

    Args:
        similarity: of queries (rows) with candidates (columns).
        temperature: T; CLIP's factor on a cosine, exp(logit_scale), is 1 / T.

    Returns:
        float32, in each row in the order of s': sign(s') * (log|s'| - the row's least
        log|s'| + 1), and 0 where s' is 0.

    Raises:
        UserError: values that are not finite, or a temperature that is not positive.
    """
    similarity = finite_matrix(similarity, "similarity")
    _positive(temperature, "the temperature of DSL")
    totals = _log_sum_exp(similarity, lambda block: block / temperature)

    def change(block: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            size = np.log(np.abs(block)) + block / temperature - totals
        zero = block == 0
        least = np.min(size, axis=1, keepdims=True, where=~zero, initial=np.inf)
        # An infinite size times a sign of 0 would be NaN.
        size = np.where(zero, 0, size - np.where(np.isfinite(least), least, 0) + 1)
        return np.sign(block) * size

    return Correction(similarity, change)


def querybank_norm(
    similarity: Float[np.ndarray, "Q C"],
    bank: Float[np.ndarray, "B C"],
    beta: float = 20.0,
) -> Correction:
    """Similarities normalised by their candidate's similarity to a bank of queries.

    QB-Norm with the Dynamic Inverted Softmax (Bogolin et al. 2022, "Cross Modal
    Retrieval with Querybank Normalisation", k = 1):

        s'[q, c] = exp(beta * s[q, c]) / sum over b of exp(beta * bank[b, c])

    for the queries whose best candidate is in the activation set, that is, also the
    best candidate of some query of the bank. All other rows stay the same. Of equal
    candidates the first counts as the best.

    Args:
        similarity: of queries (rows) with candidates (columns).
        bank: of other queries, such as the training split's, with the same candidates.
        beta: the inverse temperature; the paper uses 20 for cosines.

    Returns:
        float32, in each row in the order of s': log(s') / beta if it is normalised.

    Raises:
        UserError: values are not finite, the bank has other candidates, or beta is not
            positive.
    """
    similarity = finite_matrix(similarity, "similarity")
    bank = finite_matrix(bank, "bank")
    _positive(beta, "the beta of QB-Norm")
    if bank.shape[1] != similarity.shape[1]:
        raise UserError(
            f"the bank has {bank.shape[1]} candidates and the similarity has "
            f"{similarity.shape[1]}; both must have the same candidates"
        )
    active = np.zeros(bank.shape[1], bool)
    for rows in slices(*bank.shape):
        active[bank[rows].astype(np.float64).argmax(axis=1)] = True
    totals = _log_sum_exp(bank, lambda block: beta * block) / beta

    def change(block: np.ndarray) -> np.ndarray:
        normalised = active[block.argmax(axis=1)]
        return np.where(normalised[:, None], block - totals, block)

    return Correction(similarity, change)


def _log_sum_exp(
    values: Float[np.ndarray, "Q C"], logits: Callable[[np.ndarray], np.ndarray]
) -> Float[np.ndarray, "C"]:
    """log(sum(exp)) of the logits of each column, from blocks of values."""
    queries, candidates = values.shape

    def read(*part: slice) -> np.ndarray:
        return logits(values[part].astype(np.float64))

    # Blocks of complete columns where a column is contiguous.
    if values.strides[0] < values.strides[1]:
        found = np.empty(candidates)
        for columns in slices(candidates, queries):
            block = read(slice(None), columns)
            highest = block.max(axis=0)
            found[columns] = highest + np.log(np.exp(block - highest).sum(axis=0))
        return found
    parts = list(slices(queries, candidates))
    highest = np.max([read(rows).max(axis=0) for rows in parts], axis=0)
    # The first row is the sum of the blocks before.
    terms = np.zeros((parts[0].stop + 1, candidates))
    for rows in parts:
        size = rows.stop - rows.start
        np.exp(read(rows) - highest, out=terms[1 : size + 1])
        terms[0] = terms[: size + 1].sum(axis=0)
    return highest + np.log(terms[0])


def finite_matrix(values: Any, name: str) -> Float[np.ndarray, "Q C"]:
    """The values, checked to be a finite matrix; not copied.

    Args:
        values: of queries (rows) with candidates (columns).
        name: the name used in errors.

    Raises:
        UserError: it is not a matrix of real numbers, or a value is not finite.
    """
    values = np.asarray(values)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiub":
        raise UserError(
            f"the {name} is {values.dtype} {list(values.shape)}; it is a matrix of "
            "real numbers, queries (rows) by candidates (columns)"
        )
    for rows in slices(*values.shape):
        good = np.isfinite(values[rows].astype(np.float64, copy=False))
        if not good.all():
            row, column = np.argwhere(~good)[0]
            row += rows.start
            raise UserError(
                f"the {name} of query {row} with candidate {column} is "
                f"{np.float64(values[row, column])}, not a finite number"
            )
    return values


def _positive(value: float, name: str) -> None:
    if not (np.isfinite(value) and value > 0):
        raise UserError(f"{name} is {value}; it must be positive")
