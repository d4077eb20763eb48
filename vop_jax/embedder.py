"""Embeds a split and scores it."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from data_pipelines.buckets import bucket_batch, bucket_length, caption_lengths
from vop_jax.dual_encoder import DualEncoder
from vop_jax.metrics import retrieval_metrics, same_end_accuracy, twin_accuracy
from vop_jax.processes import one_at_a_time
from vop_jax.sharding import per_device, put_batch
from vop_jax.similarity import similarity_of

if TYPE_CHECKING:
    from data_pipelines.split import Split

TEXT_BATCH = 256


class Embedder:
    """A model's two encoders, compiled for a mesh.

    Args:
        model: the encoders.
        mesh: what they run on; every process gets the whole result.
        frame: the one frame of each video to look at, or None for all.

    Attributes:
        embed_videos: compiled, (variables, frames `[B, F, H, W, 3]`) -> `[B, E]`.
        embed_texts: compiled, (variables, ids `[B, N]`) -> `[B, E]`.
    """

    def __init__(self, model: DualEncoder, mesh: Mesh, frame: int | None = None):
        model = model.on(mesh.devices.flat[0].platform)
        self._mesh, self._embedding = mesh, model.size.embedding
        self._batch_multiple = mesh.size
        cut = slice(None) if frame is None else slice(frame, frame + 1 or None)
        self.embed_videos = per_device(
            lambda variables, frames: model.apply(
                variables, frames[:, cut], method="encode_videos"
            ),
            mesh,
        )
        self.embed_texts = per_device(
            lambda variables, ids: model.apply(variables, ids, method="encode_texts"),
            mesh,
        )

    def _run(self, encode: Any, variables: Any, rows: np.ndarray) -> jax.Array:
        """The embedding of this process's share of some rows, sent off."""
        features = encode(variables, put_batch(self._mesh, {"x": rows})["x"])
        return features.block_until_ready() if one_at_a_time() else features

    def rounded(self, size: int) -> int:
        """The next batch size that all devices can share."""
        return -(-size // self._batch_multiple) * self._batch_multiple

    def videos(
        self, variables: Any, split: "Split", batch_size: int
    ) -> Float[np.ndarray, "V E"]:
        """The embedding of every video of a split, in its order."""
        # Imported late: TensorFlow takes seconds, and only prepared data need it.
        from data_pipelines.feed import evaluation_batches

        batches = evaluation_batches(
            split,
            self.rounded(min(batch_size, len(split.video_ids))),
            jax.process_index(),
            jax.process_count(),
        )
        features = [
            self._run(self.embed_videos, variables, batch["frames"])
            for batch in batches
        ]
        return np.concatenate([np.asarray(x) for x in features])[: len(split.video_ids)]

    def frames(
        self, variables: Any, frames: UInt8[np.ndarray, "B F H W 3"], batch_size: int
    ) -> Float[np.ndarray, "B E"]:
        """The embedding of videos of any number, in few compiled batch sizes.

        Only where one process holds the whole mesh.
        """
        features = [np.zeros((0, self._embedding), np.float32)]
        for start in range(0, len(frames), batch_size):
            own = frames[start : start + batch_size]
            size = self.rounded(bucket_batch(len(own), batch_size))
            filled = np.zeros((size, *own.shape[1:]), np.uint8)
            filled[: len(own)] = own
            batch = put_batch(self._mesh, {"x": filled})["x"]
            features.append(np.asarray(self.embed_videos(variables, batch))[: len(own)])
        return np.concatenate(features)

    def texts(
        self, variables: Any, ids: Int[np.ndarray, "C N"]
    ) -> Float[np.ndarray, "C E"]:
        """The embedding of every caption."""
        length = bucket_length(int(caption_lengths(ids).max()), ids.shape[1])
        size = self.rounded(bucket_batch(len(ids), TEXT_BATCH))
        filled = np.zeros((-(-len(ids) // size) * size, length), ids.dtype)
        filled[: len(ids)] = ids[:, :length]
        # Every process holds all captions and gives the mesh its own share.
        share = size // jax.process_count()
        own = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        features = [
            self._run(self.embed_texts, variables, batch[own])
            for batch in filled.reshape(-1, size, length)
        ]
        return np.concatenate([np.asarray(x) for x in features])[: len(ids)]

    def similarity(
        self,
        variables: Any,
        split: "Split",
        ids: Int[np.ndarray, "C N"],
        batch_size: int,
    ) -> Float[np.ndarray, "C V"]:
        """Of every caption with every video of a split; see `similarity_of`."""
        texts = self.texts(variables, ids)
        return similarity_of(texts, self.videos(variables, split, batch_size))


def score(
    similarity: Float[np.ndarray, "C V"], split: "Split", ties: str
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
