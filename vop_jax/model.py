"""The Python surface: a CLIP, prompted or not, that embeds videos and texts.

    model = vop_jax.load("runs/demo_vop_fc")
    similarity = model.encode_texts(["a red circle"]) @ model.encode_videos(paths).T

Nothing here imports TensorFlow.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from data_pipelines.errors import UserError
from data_pipelines.frames import VideoError, decode_uniform, resize_and_crop
from vop_jax.backbone import Backbone, find_folder, load_backbone
from vop_jax.demo import BACKBONE
from vop_jax.dual_encoder import DualEncoder
from vop_jax.embedder import Embedder
from vop_jax.methods import find_method
from vop_jax.prompts import PromptConfig
from vop_jax.run_folder import RunFolder
from vop_jax.sharding import MeshConfig, make_mesh, put_tree
from vop_jax.tokenizer import Tokenizer, load_tokenizer
from vop_jax.tuned import TUNED, Tuned, load_tuned

# F where nothing says otherwise; the paper's.
NUM_FRAMES = 12
BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A frozen CLIP with what was tuned on top of it.

    Attributes:
        backbone: the CLIP.
        params: the CLIP's own weights, on the devices.
        encoder: both towers as a Linen module.
        variables: its variables, on the devices; what was not tuned is `params`' own.
        tokenizer: strings -> token ids `int32 [B, N]`.
        num_frames: F, how many frames `read_video` takes of a video.
        metadata: that of the tuned file, empty for a bare CLIP.
        fingerprint: sha256 over the weights of the backbone and what was tuned.
    """

    backbone: Backbone
    params: dict[str, Any]
    encoder: DualEncoder
    variables: dict[str, Any]
    tokenizer: Tokenizer
    num_frames: int
    metadata: dict[str, Any]
    fingerprint: str

    @property
    def image_size(self) -> int:
        """Height and width of a frame, pixels."""
        return self.backbone.size.image_size

    @property
    def _embedder(self) -> Embedder:
        # A dataclass of Linen's, which type checkers do not know to be hashable.
        encoder: Any = self.encoder
        return _compiled(encoder)

    def encode_videos(
        self,
        videos: UInt8[np.ndarray, "B F H W 3"] | Sequence[Any],
        batch_size: int = BATCH_SIZE,
    ) -> Float[np.ndarray, "B E"]:
        """Embeds videos: the mean over frames of the frames' normalised embeddings.

        Args:
            videos: frames as RGB bytes, or paths of video files. Frames of another
                size than the backbone's are resized and cropped as CLIP does it. Of
                any number, unless what was tuned belongs to frame positions.
            batch_size: the most videos that are embedded at once.

        Returns:
            float32, not normalised again: `texts @ videos.T` is the similarity.

        Raises:
            UserError: a file that gives no frames, or an array of another form.
        """
        if isinstance(videos, str | Path):
            raise UserError("encode_videos takes a list of paths, or frames")
        if hasattr(videos, "__array__") or not _all_of(videos, (str, Path)):
            return self._encode_frames(_array(videos, "frames"), batch_size)
        features = [np.zeros((0, self.backbone.size.embedding), np.float32)]
        for start in range(0, len(videos), batch_size):
            try:
                frames = [
                    self.read_video(x) for x in videos[start : start + batch_size]
                ]
            except VideoError as error:
                raise UserError(str(error)) from None
            features.append(self._encode_frames(np.stack(frames), batch_size))
        return np.concatenate(features)

    def _encode_frames(
        self, frames: np.ndarray, batch_size: int
    ) -> Float[np.ndarray, "B E"]:
        if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise UserError(
                f"frames are {frames.dtype} {list(frames.shape)}; they must be uint8 "
                "[videos, frames, height, width, 3]"
            )
        self.check_frames(frames.shape[1])
        side = self.image_size
        if frames.shape[2:4] != (side, side):
            flat = frames.reshape(-1, *frames.shape[2:])
            flat = np.stack([resize_and_crop(x, side) for x in flat])
            frames = flat.reshape(*frames.shape[:2], side, side, 3)
        return self._embedder.frames(self.variables, frames, batch_size)

    def encode_texts(
        self, texts: Sequence[str] | Int[np.ndarray, "B N"] | Sequence[Sequence[int]]
    ) -> Float[np.ndarray, "B E"]:
        """Embeds texts: strings, or token ids that end in the EOT token.

        Returns:
            float32, each of length 1.

        Raises:
            UserError: ids that are no captions of this model.
        """
        if isinstance(texts, str):
            raise UserError("encode_texts takes a list of strings, or token ids")
        if hasattr(texts, "__array__") or not _all_of(texts, str):
            ids = _array(texts, "token ids")
        else:
            ids = self.tokenizer([str(text) for text in texts])
        size, longest = self.backbone.size, self.tokenizer.length
        if not len(ids):
            return np.zeros((0, size.embedding), np.float32)
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise UserError(
                f"token ids are {ids.dtype} {list(ids.shape)}; they must be whole "
                "numbers [texts, tokens]"
            )
        if ids.min() < 0 or ids.max() >= size.vocabulary:
            raise UserError(f"token ids must be from 0 to {size.vocabulary - 1}")
        if not (ids[:, :longest] == size.eos_id).any(axis=1).all():
            raise UserError(
                f"every text must hold the EOT token {size.eos_id} within its first "
                f"{longest} tokens"
            )
        ids = ids[:, :longest].astype(np.int32)
        # Whatever stands behind the EOT token is padding; some pad with EOT itself.
        behind = np.cumsum(ids == size.eos_id, axis=1) - (ids == size.eos_id) > 0
        return self._embedder.texts(self.variables, np.where(behind, 0, ids))

    def read_video(self, path: str | Path) -> UInt8[np.ndarray, "F H W 3"]:
        """The uniform frames of a file as the backbone takes them.

        Raises:
            VideoError: the file gives no trustworthy frames.
        """
        frames = decode_uniform(path, self.num_frames).frames
        return np.stack([resize_and_crop(frame, self.image_size) for frame in frames])

    def check_frames(self, count: int) -> None:
        """Makes sure that videos of so many frames can be embedded.

        Raises:
            UserError: what was tuned belongs to another number of frame positions.
        """
        config = self.encoder.prompt_config
        if count != config.num_frames and config.bound_to_frames(
            self.backbone.size.vision.layers
        ):
            raise UserError(
                f"{count} frames a video, but what was tuned belongs to "
                f"{config.num_frames} frame positions"
            )

    def with_tuned(self, tuned: str | Path, *, any_backbone: bool = False) -> "Model":
        """Another model on this one's backbone, whose weights both then share.

        Args:
            tuned: a `tuned.safetensors`.
            any_backbone: take it even if it was trained on another backbone.
        """
        sha256 = None if any_backbone else self.backbone.sha256
        found = load_tuned(Path(tuned), self.backbone.size, sha256)
        return _assemble(self.backbone, self.params, found)


def _all_of(values: Any, kind: Any) -> bool:
    return all(isinstance(value, kind) for value in values)


def _array(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise UserError(f"the {name} have different shapes; pad them to one") from None


@functools.lru_cache(maxsize=32)
def _compiled(encoder: Any) -> Embedder:
    """One program for all models whose prompts have the same shapes."""
    return Embedder(encoder, _mesh())


def _mesh() -> Mesh:
    return make_mesh(MeshConfig(), jax.local_devices())


def load(
    path: str | Path,
    tuned: str | Path | None = None,
    *,
    num_frames: int | None = None,
    any_backbone: bool = False,
) -> Model:
    """Loads a model.

    Args:
        path: a run's folder, a CLIP folder (with or without a `tuned.safetensors`, as
            `vop_jax.convert` writes it), or the name of a CLIP on the Hugging Face hub.
        tuned: a `tuned.safetensors` to put on the CLIP, instead of the folder's own.
        num_frames: F of videos that are read from files, where the tuned file does not
            bind it to frame positions; by default what was trained with, or 12.
        any_backbone: take the tuned file even if it was trained on another backbone.

    Raises:
        UserError: missing, damaged, or files that do not belong together.
    """
    folder, own = _parts(path)
    tuned = Path(tuned) if tuned else own
    backbone = load_backbone(folder)
    params = put_tree(_mesh(), backbone.params)
    found = None
    if tuned is not None:
        sha256 = None if any_backbone else backbone.sha256
        found = load_tuned(tuned, backbone.size, sha256)
    model = _assemble(backbone, params, found)
    if num_frames is not None:
        model.check_frames(num_frames)
        model = dataclasses.replace(model, num_frames=num_frames)
    return model


def _parts(path: str | Path) -> tuple[Path, Path | None]:
    """The backbone's folder and the tuned file, if there is one, of a path."""
    run = RunFolder(path)
    if run.path.is_file():
        raise UserError(
            f"{path} is a file; give a run's or a CLIP's folder (a PyTorch file "
            "becomes one by python -m vop_jax.convert)"
        )
    if run.is_run():
        config = run.read_config()
        if find_method(config["method"]).trained and not run.tuned.is_file():
            raise UserError(f"{run.tuned} is missing; let the run come to its end")
        backbone = BACKBONE if config["backbone"] == "demo" else config["backbone"]
        tuned = Path(run.tuned) if run.tuned.is_file() else None
        return find_folder(backbone), tuned
    folder = find_folder(path)
    return folder, folder / TUNED if (folder / TUNED).is_file() else None


def _assemble(backbone: Backbone, params: Any, tuned: Tuned | None) -> Model:
    """Puts what was tuned on a backbone whose weights are on the devices."""
    leaves = tuned.leaves if tuned else {}
    placed = put_tree(_mesh(), traverse_util.unflatten_dict(leaves, sep="/"))
    flat = traverse_util.flatten_dict({"params": params}, sep="/")
    flat |= traverse_util.flatten_dict(placed, sep="/")
    metadata = tuned.metadata if tuned else {}
    prompts = tuned.prompts if tuned else PromptConfig(num_frames=NUM_FRAMES)
    size = backbone.size
    renormalize = bool(metadata.get("renormalize_video", False))
    # Weights alone do not say what they do.
    digest = hashlib.sha256(f"{backbone.sha256} {prompts} {renormalize}".encode())
    for name in sorted(leaves):
        digest.update(name.encode())
        digest.update(leaves[name].tobytes())
    return Model(
        backbone=backbone,
        params=params,
        encoder=DualEncoder(size, prompts, renormalize_video=renormalize),
        variables=traverse_util.unflatten_dict(flat, sep="/"),
        tokenizer=load_tokenizer(
            backbone.folder, size, prompts.caption_length(size.context_length)
        ),
        num_frames=prompts.num_frames,
        metadata=metadata,
        fingerprint=digest.hexdigest(),
    )
