"""The Python interface: loads a CLIP, tuned or not, and embeds videos and texts.

    model = vop_jax.load("runs/demo_vop_fc")
    similarity = model.encode_texts(["a red circle"]) @ model.encode_videos(paths).T

Nothing here imports TensorFlow.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.cuts import WINDOWS
from data_pipelines.decoding.frames import VideoError
from data_pipelines.decoding.moments import Moment, VideoEnd
from data_pipelines.text.tokenizer import Tokenizer
from vop_jax.devices.config import MeshConfig
from vop_jax.devices.mesh import make_mesh, put_tree
from vop_jax.model.clip.sizes import TOWERS, tower_of
from vop_jax.model.compute import DTYPES, ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.embedder import Embedder
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.stored import store_frozen
from vop_jax.model.tree_paths import from_paths, paths
from vop_jax.sharing.saving import Shareable
from vop_jax.surface.inputs import (
    MOST_FRAMES,
    file_of,
    kind_of,
    padded_ids,
    path_of,
    place_of,
    texts_of,
    videos_of,
    whole_number,
)
from vop_jax.surface.video_reader import (
    EncodedVideos,
    FrameForm,
    each_video,
    good_videos,
    in_batches,
    moments_of,
    read_each,
    read_file,
    result_of,
)
from vop_jax.weights.backbone import Backbone, load_backbone
from vop_jax.weights.file_names import TUNED
from vop_jax.weights.fingerprint import fingerprint_of
from vop_jax.weights.frame_recipes import resizing_of
from vop_jax.weights.model_path import model_parts
from vop_jax.weights.tokenizer import load_tokenizer
from vop_jax.weights.tuned import Tuned, load_tuned

# The default F, the paper's.
NUM_FRAMES = 12
BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model(Shareable):
    """A frozen CLIP with the parameters that were tuned on top of it.

    Attributes:
        backbone: the CLIP.
        params: the CLIP's own weights, on the devices.
        encoder: both towers as a Linen module.
        variables: its variables, on the devices; arrays that were not tuned are shared
            with `params`.
        tokenizer: strings -> token ids `int32 [B, N]`.
        num_frames: F, the number of frames that `read_video` takes of a video.
        metadata: of the tuned file; empty without one.
        fingerprint: sha256 over the weights of the backbone, the tuned parameters,
            how frames are made, and the compute dtype.
        run: folder of the run that it was loaded from; empty if of none.
    """

    backbone: Backbone
    params: dict[str, Any]
    encoder: DualEncoder
    variables: dict[str, Any]
    tokenizer: Tokenizer
    num_frames: int
    metadata: dict[str, Any]
    fingerprint: str
    run: str = ""

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> "Model":
        """Loads a model: `vop_jax.load`, under the name that other libraries have."""
        return load(path, **options)

    def __repr__(self) -> str:
        tuned = self.metadata.get("method", "nothing")
        return f"Model({self.backbone}, tuned={tuned}, num_frames={self.num_frames})"

    @property
    def image_size(self) -> int:
        """Height and width of a frame, pixels."""
        return self.backbone.size.image_size

    @property
    def _frames(self) -> FrameForm:
        """Which frames are made of a file, as the backbone was trained."""
        resizing = resizing_of(self.backbone.size)
        return FrameForm(self.num_frames, self.image_size, resizing)

    @property
    def dtype(self) -> str:
        """The compute dtype, `float32` or `bfloat16`; embeddings are always float32."""
        return self.encoder.compute.dtype

    @property
    def _embedder(self) -> Embedder:
        # Type checkers do not know that a Linen module is hashable.
        encoder: Any = self.encoder
        return _compiled(encoder)

    @overload
    def encode_videos(
        self,
        videos: UInt8[np.ndarray, "B F H W 3"] | Iterable[Any],
        batch_size: int = BATCH_SIZE,
        *,
        on_error: Literal["raise"] = "raise",
    ) -> Float[np.ndarray, "B E"]: ...

    @overload
    def encode_videos(
        self,
        videos: UInt8[np.ndarray, "B F H W 3"] | Iterable[Any],
        batch_size: int = BATCH_SIZE,
        *,
        on_error: Literal["skip"],
    ) -> EncodedVideos: ...

    def encode_videos(
        self,
        videos: UInt8[np.ndarray, "B F H W 3"] | Iterable[Any],
        batch_size: int = BATCH_SIZE,
        *,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Float[np.ndarray, "B E"] | EncodedVideos:
        """Embeds videos: the mean over frames of the frames' normalised embeddings.

        A model with global prompts has one embedding of all frames instead of a mean.

        Files are decoded by worker processes (`data_pipelines.decoding.workers`) ahead
        of the encoding, by at most a batch and two files per process, so that memory
        does not grow with the number of files.

        Args:
            videos: RGB frames as one array, or an iterable (list, generator, table
                column) of video file paths, of frames `uint8 [F, H, W, 3]`, or of both.
                Frames of another size than the backbone's are resized as it was
                trained. F may be any number, unless tuned parameters belong to frame
                positions. A generator is read only as far as needed.
            batch_size: the most videos to embed at once.
            on_error: with "skip", a video that cannot be decoded is skipped and
                reported; with "raise" it ends the call.

        Returns:
            float32, not normalised again: `texts @ videos.T` is the similarity. With
            "skip", the embeddings, the indices of their videos, and the failed videos.

        Raises:
            UserError: a file cannot be decoded (with "raise"), an array has another
                shape, or `videos` does not hold videos, such as a folder or a URL.
        """
        self._check_tower("vision")
        batch_size = whole_number(batch_size, "batch_size")
        if not isinstance(on_error, str) or on_error not in ("raise", "skip"):
            raise UserError("on_error is one of 'raise', 'skip'")
        found = videos_of(videos)
        if isinstance(found, np.ndarray):
            self.check_frames(found.shape[1])
            if found.shape[2:4] == (self.image_size,) * 2:
                features = self._embedder.frames(self.variables, found, batch_size)
                kept = list(range(len(features)))
                return result_of(on_error, [features], kept, [])
        features = [np.zeros((0, self.backbone.size.embedding), np.float32)]
        kept, failed = [], []
        items = each_video(found, self.check_frames)
        read = read_each(items, self._frames, batch_size, in_order=True)
        with contextlib.closing(read) as reading:
            good = good_videos(reading, on_error, kept, failed)
            for batch in in_batches(good, batch_size):
                some = self._embedder.frames(self.variables, batch, batch_size)
                features.append(some)
        return result_of(on_error, features, kept, failed)

    def encode_texts(
        self,
        texts: Iterable[str] | Int[np.ndarray, "B N"] | Iterable[Sequence[int]],
    ) -> Float[np.ndarray, "B E"]:
        """Embeds texts: strings, or token ids that end with the EOT token.

        Lists of ids may have different lengths; ids after a text's EOT token are
        padding.

        Returns:
            float32, each embedding of length 1.

        Raises:
            UserError: there are no texts, or the ids are not captions of this model.
        """
        self._check_tower("text")
        ids = texts_of(texts)
        if isinstance(ids, list):
            ids = self.tokenizer(ids)
        size = self.backbone.size
        if not len(ids):
            return np.zeros((0, size.embedding), np.float32)
        end = None if size.full_captions else size.eos_id
        ids = padded_ids(ids, self.tokenizer.length, size.vocabulary, end)
        return self._embedder.texts(self.variables, ids)

    def compile_texts(self) -> None:
        """Compiles what embeds a few texts, for every length that a text may have.

        A server calls it before its first request, which would otherwise wait.
        """
        self._embedder.compile_texts(self.variables, self.tokenizer.length)

    def _check_tower(self, name: str) -> None:
        """Checks that a tower's weights were loaded.

        Raises:
            UserError: they were not.
        """
        if name not in self.params:
            raise UserError(f"the model was loaded without its {name} tower")

    def read_video(self, path: str | Path) -> UInt8[np.ndarray, "F H W 3"]:
        """Decodes uniformly spaced frames of a file, at the backbone's image size.

        Raises:
            VideoError: the file cannot be decoded reliably.
            UserError: it is not a path.
        """
        frames = read_file(path_of(path, "video"), self._frames)
        if isinstance(frames, VideoError):
            raise frames
        return frames

    def read_moments(
        self,
        paths: Iterable[str | Path],
        seconds: float,
        ahead: int,
        cut: str = WINDOWS,
    ) -> Generator[tuple[int, Moment | VideoEnd], None, None]:
        """Decodes files moment by moment, several files in parallel.

        Args:
            paths: of the files, read as far as needed.
            seconds: length of a moment; a video of up to 1.5 times that is one window.
            ahead: how many moments to decode before they are consumed.
            cut: where moments begin: `windows` of equal length, or `shots`.

        Yields:
            The path's index, from 0, and a moment or the end of its file, in order.
        """
        found = videos_of(paths)
        if isinstance(found, np.ndarray):
            raise UserError(f"paths are {kind_of(paths)}; pass a list of paths")
        items = (path_of(path, "video") for path in found)
        return moments_of(items, self._frames, seconds, ahead, cut)

    def check_frames(self, count: int) -> None:
        """Checks that videos of so many frames can be embedded.

        Raises:
            UserError: the tuned parameters belong to another number of frame positions.
        """
        config, layers = self.encoder.prompt_config, self.backbone.size.vision.layers
        if count != config.num_frames and config.bound_to_frames(layers):
            raise UserError(
                f"{count} frames per video, but the tuned parameters belong to "
                f"{config.num_frames} frame positions; use {config.num_frames} frames"
            )

    def with_tuned(self, tuned: str | Path, *, any_backbone: bool = False) -> "Model":
        """Another model on the same backbone, whose weights both then share.

        Args:
            tuned: a `tuned.safetensors`.
            any_backbone: accept a file that was trained on another backbone.
        """
        sha256 = None if any_backbone else self.backbone.sha256
        found = load_tuned(file_of(tuned, "tuned", TUNED), self.backbone.size, sha256)
        return _assemble(self.backbone, self.params, found, self.encoder.compute)


@functools.lru_cache(maxsize=32)
def _compiled(encoder: Any) -> Embedder:
    """One compiled program for all models whose prompts have the same shapes."""
    return Embedder(encoder, _mesh())


def _mesh() -> Mesh:
    return make_mesh(MeshConfig(), jax.local_devices())


def load(
    path: str | Path,
    tuned: str | Path | None = None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    num_frames: int | None = None,
    any_backbone: bool = False,
    towers: Collection[str] = TOWERS,
    dtype: str = "float32",
) -> Model:
    """Loads a model.

    Args:
        path: a run's folder, a CLIP folder (with or without a `tuned.safetensors`, as
            `vop_jax.convert` writes it), the name of a CLIP or of a shared model on the
            Hugging Face hub (`owner/name[/folder][@revision]`), or "demo" or
            "demo_siglip", the backbones that come with the project.
        tuned: a `tuned.safetensors` to use instead of the folder's own.
        revision: of a model on the hub: a branch, a tag or a commit.
        subfolder: of its repository, where the model has one.
        num_frames: F of videos that are read from files; by default the F of training,
            or 12. Fixed if tuned parameters belong to frame positions.
        any_backbone: accept a tuned file that was trained on another backbone.
        towers: which weights to load, "vision" to embed videos and "text" to embed
            texts; by default both.
        dtype: what the towers compute in: `float32`, PyTorch's numbers to 1e-5;
            `bfloat16`; or `auto`, `bfloat16` where the device multiplies it in
            hardware and the model is large enough to gain.

    Raises:
        UserError: files are missing, damaged, or do not belong together.
    """
    if isinstance(towers, str) or not towers or not {*towers} <= {*TOWERS}:
        raise UserError(f"towers holds one or more of {', '.join(TOWERS)}, as a list")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(f"dtype is one of {', '.join(map(repr, DTYPES))}")
    if num_frames is not None:
        num_frames = whole_number(num_frames, "num_frames", MOST_FRAMES)
    try:
        parts = model_parts(place_of(path), revision, subfolder)
        tuned = parts.tuned if tuned is None else file_of(tuned, "tuned", TUNED)
    except OSError as error:
        raise UserError(f"the model cannot be read ({error.strerror})") from None
    backbone = load_backbone(parts.backbone, towers)
    sha256 = None if any_backbone else backbone.sha256
    parts.check(sha256)
    mesh = _mesh()
    compute = ComputeConfig(dtype).with_dtype(mesh.devices.flat[0], backbone.size)
    # Cast once here; the layers would otherwise cast them in every batch.
    params = put_tree(mesh, store_frozen(backbone.params, compute.dtype))
    found = None if tuned is None else load_tuned(tuned, backbone.size, sha256)
    model = _assemble(backbone, params, found, compute)
    if num_frames is not None:
        model.check_frames(num_frames)
        model = dataclasses.replace(model, num_frames=num_frames)
    # Of another tuned file the run says nothing.
    return dataclasses.replace(model, run=parts.run if tuned == parts.tuned else "")


def _assemble(
    backbone: Backbone, params: Any, tuned: Tuned | None, compute: ComputeConfig
) -> Model:
    """Adds tuned parameters to a backbone whose weights are on the devices."""
    leaves = tuned.leaves if tuned else {}
    # A tower that was not loaded gets no tuned parameters either.
    wanted = {k: x for k, x in leaves.items() if tower_of(k) in (None, *params)}
    placed = put_tree(_mesh(), from_paths(wanted))
    flat = paths({"params": params}) | paths(placed)
    metadata = tuned.metadata if tuned else {}
    prompts = tuned.prompts if tuned else PromptConfig(num_frames=NUM_FRAMES)
    renormalize = bool(metadata.get("renormalize_video", False))
    longest = prompts.caption_length(backbone.size.context_length)
    made = backbone, leaves, prompts, compute.dtype
    return Model(
        backbone=backbone,
        params=params,
        encoder=DualEncoder(backbone.size, prompts, compute, renormalize),
        variables=from_paths(flat),
        tokenizer=load_tokenizer(backbone.folder, backbone.size, longest),
        num_frames=prompts.num_frames,
        metadata=metadata,
        fingerprint=fingerprint_of(*made, renormalize=renormalize),
    )
