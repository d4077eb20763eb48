"""The evaluation of a similarity matrix in files, whatever computed it."""

from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.console.errors import UserError
from vop_jax.scoring.evaluation import Evaluation
from vop_jax.scoring.hub_corrections import finite_matrix
from vop_jax.scoring.matrix_file import read_array, read_map
from vop_jax.scoring.metrics import by_direction, retrieval_counts


def evaluate_matrix(
    path: Path,
    video_of_text: Path | None,
    *,
    ties: str,
    bank: Path | None,
    video_bank: Path | None,
    **options: Any,
) -> Evaluation:
    """Reads and checks the files, and counts ranks.

    Args:
        path: the matrix, texts (rows) by videos (columns).
        video_of_text: the index of each text's video; None means the diagonal.
        ties: the tie policy.
        bank: other texts by the same videos, for QB-Norm; None means none.
        video_bank: the same texts by other videos, for QB-Norm of v2t.
        **options: further fields of `Evaluation`.

    Raises:
        UserError: a file cannot be read, does not fit, or holds what is not finite.
    """
    similarity = read_array(path)
    right = None
    if video_of_text and similarity.ndim == 2:
        right = read_map(video_of_text, *similarity.shape)
    elif similarity.ndim == 2 and len(set(similarity.shape)) > 1:
        texts, videos = similarity.shape
        raise UserError(
            f"{path}: {texts} texts and {videos} videos: pass the video of each text, "
            "--video-of-text=FILE"
        )
    # The metrics do not know the file that the user passed.
    try:
        counts = retrieval_counts(similarity, right)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    texts, videos = similarity.shape
    return Evaluation(
        title=str(path),
        similarity=similarity,
        video_of_text=np.arange(texts) if right is None else right,
        counts=counts,
        ties=ties,
        results={"queries": texts, "videos": videos, **by_direction(counts, ties)},
        bank=_bank(bank),
        video_bank=_bank(video_bank),
        **options,
    )


def _bank(path: Path | None) -> np.ndarray | None:
    """Reads a bank of similarities, and checks it before anything is scored."""
    if path is None:
        return None
    bank = read_array(path)
    try:
        finite_matrix(bank, "bank")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return bank
