"""A model in mteb's encoder interface: batches of texts or videos to embeddings."""

from typing import Any

import numpy as np
from jaxtyping import Float
from mteb.models.abs_encoder import AbsEncoder  # pyright: ignore
from mteb.models.modality_collators import FramesCollator  # pyright: ignore

from data_pipelines.console.errors import UserError
from vop_jax.mteb_model.films import FilmCollator
from vop_jax.mteb_model.metadata import model_meta
from vop_jax.weights.frame_recipes import resizing_of


class MtebEncoder(AbsEncoder):
    """Embeds what mteb's loaders give; see `loading.mteb_encoder`.

    Args:
        model: of `vop_jax.load`.
        name: `owner/name`; None takes what the model is known by.
        license: in mteb's spelling.
        frames: which frames a video has, as `FramesCollator` takes it.

    Attributes:
        mteb_model_meta: what mteb knows of the model.
    """

    def __init__(
        self, model: Any, name: str | None, license: str | None, frames: dict[str, Any]
    ):
        # Not `model`: mteb would ask an attribute of that name for similarities.
        self._embeds, self._frames = model, frames
        usual = frames == {"num_frames": model.num_frames}
        unusual = None if usual else frames
        self.mteb_model_meta = model_meta(model, name, license, unusual)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **options: Any,
    ) -> Float[np.ndarray, "B E"]:
        """Embeds the rows of a loader, texts or videos.

        Args:
            inputs: a `torch.utils.data.DataLoader` of batches with a list of texts
                under `text` or of videos under `video`.
            task_metadata: of the task.
            hf_split: the task's split.
            hf_subset: the task's subset.
            prompt_type: query or document; both are embedded alike.
            **options: `batch_size`, the most videos to embed at once.

        Raises:
            UserError: a video cannot be decoded, or a row has not exactly one of both.
        """
        columns = [x for x in ("text", "video") if x in inputs.dataset.features]
        if len(columns) != 1:
            found = " and ".join(columns) or "neither a text nor a video"
            raise UserError(
                f"{task_metadata.name}: a row holds {found}; this model embeds one "
                "text or one video"
            )
        parts = [np.zeros((0, self._embeds.backbone.size.embedding), np.float32)]
        if columns == ["text"]:
            parts += [self._embeds.encode_texts(list(x["text"])) for x in inputs]
            return np.concatenate(parts)
        for batch in self._with_films(inputs):
            videos = [np.moveaxis(np.asarray(x), 1, -1) for x in batch["video"]]
            size = options.get("batch_size", len(videos))
            parts.append(self._embeds.encode_videos(videos, size))
        return np.concatenate(parts)

    def _with_films(self, inputs: Any) -> Any:
        """A loader of the same rows that decodes them here."""
        from datasets import Video  # pyright: ignore

        rows = inputs.dataset
        if isinstance(rows.features["video"], Video):
            rows = rows.cast_column("video", Video(decode=False))
        size = self._embeds.backbone.size
        return type(inputs)(
            rows,
            batch_size=inputs.batch_size,
            num_workers=inputs.num_workers,
            # A fork of a process in which JAX has threads may wait forever.
            multiprocessing_context="forkserver" if inputs.num_workers else None,
            collate_fn=FilmCollator(
                FramesCollator(**self._frames), size.image_size, resizing_of(size)
            ),
        )
