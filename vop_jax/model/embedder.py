"""Embeds the videos and captions of a split, in batches over a mesh."""

import sys
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from data_pipelines.console.errors import UserError
from data_pipelines.text.buckets import (
    BUCKETS,
    bucket_batch,
    bucket_length,
    bucket_lengths,
    caption_lengths,
)
from vop_jax.devices.mesh import per_device, put_batch
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.runtime.processes import one_at_a_time
from vop_jax.scoring.similarity import Similarity, similarity_of

if TYPE_CHECKING:
    from data_pipelines.feeding.split import Split

TEXT_BATCH = 256
# Up to so many texts are embedded one by one: a search has a few at most, and another
# batch size would be another program for every length.
FEW_TEXTS = 16
# Platform -> most videos that a device is given at once. More make a CPU slower, since
# less of a layer stays in its caches, and take 0.2 GiB each eight with a ViT-B/32.
_MOST_VIDEOS = {"cpu": 8}


class Embedder:
    """A model's two encoders, compiled for a mesh.

    Args:
        model: the encoders.
        mesh: the devices; every process gets the complete result.

    Attributes:
        embed_videos: compiled, (variables, frames `[B, F, H, W, 3]`) -> `[B, E]`.
        embed_texts: compiled, (variables, ids `[B, N]`) -> `[B, E]`.
    """

    def __init__(self, model: DualEncoder, mesh: Mesh):
        model = model.on(mesh.devices.flat[0])
        self._mesh, self._embedding = mesh, model.size.embedding
        self._buckets = () if model.size.full_captions else BUCKETS
        self._batch_multiple = mesh.size
        most = _MOST_VIDEOS.get(mesh.devices.flat[0].platform, sys.maxsize)
        self._most_videos = most * mesh.size
        self.embed_videos = per_device(
            lambda variables, frames: model.apply(
                variables, frames, method="encode_videos"
            ),
            mesh,
        )
        self.embed_texts = per_device(
            lambda variables, ids: model.apply(variables, ids, method="encode_texts"),
            mesh,
        )

    def _run(self, encode: Any, variables: Any, rows: np.ndarray) -> jax.Array:
        """Dispatches the embedding of a batch, given this process's rows of it."""
        features = encode(variables, put_batch(self._mesh, {"x": rows})["x"])
        return features.block_until_ready() if one_at_a_time() else features

    def rounded(self, size: int) -> int:
        """The batch size rounded up to a multiple of the number of devices."""
        return -(-size // self._batch_multiple) * self._batch_multiple

    def videos(
        self,
        variables: Any,
        split: "Split",
        batch_size: int,
        frame: int | None = None,
        *,
        backwards: bool = False,
    ) -> Float[np.ndarray, "V E"]:
        """The embedding of every video of a split, in its order.

        Args:
            variables: of the model.
            split: the videos.
            batch_size: videos at a time.
            frame: index of the only frame of each video that is seen; None means all.
            backwards: whether the frames come in reversed order.
        """
        cut = slice(None) if frame is None else slice(frame, frame + 1 or None)
        step = -1 if backwards else 1
        # Imported late: TensorFlow takes seconds, and only prepared data need it.
        from data_pipelines.feeding.feed import evaluation_batches

        batches = evaluation_batches(
            split,
            self.rounded(min(batch_size, len(split.video_ids))),
            jax.process_index(),
            jax.process_count(),
        )
        features = [
            self._run(self.embed_videos, variables, batch["frames"][:, cut][:, ::step])
            for batch in batches
        ]
        whole = np.concatenate([np.asarray(x) for x in features])
        return _finite(whole[: len(split.video_ids)], "video")

    def frames(
        self, variables: Any, frames: UInt8[np.ndarray, "B F H W 3"], batch_size: int
    ) -> Float[np.ndarray, "B E"]:
        """The embeddings of any number of videos, with few compiled batch sizes.

        Only for a mesh whose devices all belong to this process.

        Args:
            variables: of the model.
            frames: the videos.
            batch_size: videos at a time; fewer where the devices are faster with fewer.
        """
        batch_size = min(batch_size, self._most_videos)
        features = [np.zeros((0, self._embedding), np.float32)]
        for start in range(0, len(frames), batch_size):
            own = frames[start : start + batch_size]
            size = self.rounded(bucket_batch(len(own), batch_size))
            filled = np.zeros((size, *own.shape[1:]), np.uint8)
            filled[: len(own)] = own
            batch = put_batch(self._mesh, {"x": filled})["x"]
            features.append(np.asarray(self.embed_videos(variables, batch))[: len(own)])
        return _finite(np.concatenate(features), "video")

    def texts(
        self, variables: Any, ids: Int[np.ndarray, "C N"]
    ) -> Float[np.ndarray, "C E"]:
        """The embedding of every caption."""
        longest = int(caption_lengths(ids).max())
        length = bucket_length(longest, ids.shape[1], self._buckets)
        few = len(ids) <= FEW_TEXTS
        size = self.rounded(1 if few else bucket_batch(len(ids), TEXT_BATCH))
        filled = np.zeros((-(-len(ids) // size) * size, length), ids.dtype)
        filled[: len(ids)] = ids[:, :length]
        # Every process holds all captions and contributes its own rows of each batch.
        share = size // jax.process_count()
        own = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        features = [
            self._run(self.embed_texts, variables, batch[own])
            for batch in filled.reshape(-1, size, length)
        ]
        whole = np.concatenate([np.asarray(x) for x in features])
        return _finite(whole[: len(ids)], "text")

    def compile_texts(self, variables: Any, limit: int) -> None:
        """Compiles the embedding of few captions, of every length up to a limit."""
        for length in bucket_lengths(limit, self._buckets):
            self.texts(variables, np.ones((1, length), np.int32))

    def similarity(
        self,
        variables: Any,
        split: "Split",
        batch_size: int,
        frame: int | None = None,
    ) -> Float[np.ndarray, "C V"] | Similarity:
        """The similarity of every caption to every video; see `similarity_of`."""
        texts = self.texts(variables, split.token_ids)
        return similarity_of(texts, self.videos(variables, split, batch_size, frame))


def _finite(features: Float[np.ndarray, "B E"], kind: str) -> np.ndarray:
    """The features, checked to be finite.

    Raises:
        UserError: one is not finite; finite weights can overflow as well.
    """
    good = np.isfinite(features).all(axis=1)
    if not good.all():
        raise UserError(
            f"the features of {kind} {int(np.argmin(good))} are not finite; the "
            "weights are damaged, or overflow in the compute dtype"
        )
    return features
