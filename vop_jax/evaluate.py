"""Embeds a split and scores it."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from data_pipelines.feed import (
    Split,
    bucket_length,
    caption_lengths,
    evaluation_batches,
)
from vop_jax.dual_encoder import DualEncoder
from vop_jax.metrics import retrieval_metrics, same_end_accuracy, twin_accuracy
from vop_jax.sharding import put_batch

TEXT_BATCH = 256


class Embedder:
    """A model's two encoders, compiled for a mesh.

    Args:
        model: the encoders.
        mesh: what they run on; every process gets the whole result.
        frame: the one frame of each video to look at, or None for all.
    """

    def __init__(self, model: DualEncoder, mesh: Mesh, frame: int | None = None):
        self._mesh = mesh
        self._batch_multiple = mesh.size
        cut = slice(None) if frame is None else slice(frame, frame + 1 or None)
        compiled = functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
        self._videos = compiled(
            lambda variables, frames: model.apply(
                variables, frames[:, cut], method="encode_videos"
            )
        )
        self._texts = compiled(
            lambda variables, ids: model.apply(variables, ids, method="encode_texts")
        )

    def _rounded(self, size: int) -> int:
        return -(-size // self._batch_multiple) * self._batch_multiple

    def videos(
        self, variables: Any, split: Split, batch_size: int
    ) -> Float[np.ndarray, "V E"]:
        """The embedding of every video of a split, in its order."""
        batches = evaluation_batches(
            split,
            self._rounded(min(batch_size, len(split.video_ids))),
            jax.process_index(),
            jax.process_count(),
        )
        features = [
            self._videos(variables, put_batch(self._mesh, {"x": batch["frames"]})["x"])
            for batch in batches
        ]
        return np.concatenate([np.asarray(x) for x in features])[: len(split.video_ids)]

    def texts(
        self, variables: Any, ids: Int[np.ndarray, "C N"]
    ) -> Float[np.ndarray, "C E"]:
        """The embedding of every caption."""
        length = bucket_length(int(caption_lengths(ids).max()), ids.shape[1])
        size = self._rounded(min(TEXT_BATCH, len(ids)))
        filled = np.zeros((-(-len(ids) // size) * size, length), ids.dtype)
        filled[: len(ids)] = ids[:, :length]
        # Every process holds all captions and gives the mesh its own share.
        share = size // jax.process_count()
        own = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        features = [
            self._texts(variables, put_batch(self._mesh, {"x": batch[own]})["x"])
            for batch in filled.reshape(-1, size, length)
        ]
        return np.concatenate([np.asarray(x) for x in features])[: len(ids)]

    def similarity(
        self, variables: Any, split: Split, ids: Int[np.ndarray, "C N"], batch_size: int
    ) -> Float[np.ndarray, "C V"]:
        """Of every caption with every video of a split."""
        texts = self.texts(variables, ids)
        return texts @ self.videos(variables, split, batch_size).T


def score(
    similarity: Float[np.ndarray, "C V"], split: Split, ties: str
) -> dict[str, Any]:
    """The figures of `results.json` that come from a similarity matrix."""
    results: dict[str, Any] = {
        "split": split.name,
        "queries": len(split.captions),
        "videos": len(split.video_ids),
        **retrieval_metrics(similarity, split.video_of_caption, ties),
    }
    if split.extras and "twin" in split.extras[0]:
        columns = {
            key: [extra[key] for extra in split.extras]
            for key in ("group", "variant", "twin", "family")
        }
        results["twins"] = twin_accuracy(similarity, **columns)
        results["same_end"] = same_end_accuracy(similarity, **columns)
    return results
