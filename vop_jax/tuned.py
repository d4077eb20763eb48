"""`tuned.safetensors`: what was trained and nothing else, in PyTorch's layouts."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from etils import epath
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from data_pipelines.errors import UserError
from vop_jax.backbone import RECORDS, layer_count, param_shapes
from vop_jax.conversion import targets_of, to_names, to_tree
from vop_jax.dual_encoder import DualEncoder
from vop_jax.prompts import PromptConfig
from vop_jax.run_folder import write_atomically
from vop_jax.sizes import ClipSize
from vop_jax.text_layout import TEXT_LAYOUTS
from vop_jax.weight_files import tensor_of

FORMAT = 1
# The file's name in a run's or a CLIP's folder.
TUNED = "tuned.safetensors"


class Tuned(NamedTuple):
    """What a `tuned.safetensors` holds.

    Attributes:
        leaves: path in the variable tree -> array, of the trained leaves alone.
        metadata: `method`, `num_frames`, `split_layer`, `text_layout`,
            `backbone_sha256`; where they are not the usual ones also `first_layer`,
            `cmm_role` and `renormalize_video`.
        prompts: what is prompted.
    """

    leaves: dict[str, np.ndarray]
    metadata: dict[str, Any]
    prompts: PromptConfig


def metadata_of(
    method: str,
    prompts: PromptConfig,
    layers: int,
    backbone_sha256: str | None,
    *,
    renormalize_video: bool = False,
) -> dict[str, Any]:
    """The metadata that a model's file is given.

    Args:
        method: a row of the method table.
        prompts: what is prompted.
        layers: of the vision tower.
        backbone_sha256: of the backbone; None fits any.
        renormalize_video: see `DualEncoder`.
    """
    unusual = {
        "first_layer": (prompts.first_layer, 1),
        "cmm_role": (prompts.cmm_role, "prompts"),
        "renormalize_video": (renormalize_video, False),
    }
    return {
        "method": method,
        "num_frames": prompts.num_frames,
        "split_layer": prompts.split(layers),
        "text_layout": prompts.text_layout,
        "backbone_sha256": backbone_sha256,
    } | {key: value for key, (value, usual) in unusual.items() if value != usual}


def prompt_name(path: str) -> str:
    """The file's name of a leaf of the collection `prompts`.

    Both towers keep their prompts in a module `prompts`; the names in it are unique, so
    what stands before it says nothing. Adapters are alike in both, so their tower is
    named: `adapters.vision.attention.down.weight`.
    """
    _, tower, module, *names = path.split("/")
    return ".".join(names if module == "prompts" else [module, tower, *names])


def save_tuned(
    path: Path | epath.Path,
    leaves: dict[str, np.ndarray],
    size: ClipSize,
    metadata: dict[str, Any],
) -> None:
    """Writes the trained leaves.

    Args:
        path: the file.
        leaves: path in the variable tree -> array.
        size: of the backbone.
        metadata: see `Tuned`.
    """
    named = {
        prompt_name(name): np.asarray(value, np.float32)
        for name, value in leaves.items()
        if name.startswith("prompts/")
    }
    changed = {
        name.removeprefix("params/"): np.asarray(value, np.float32)
        for name, value in leaves.items()
        if name.startswith("params/")
    }
    tree = traverse_util.unflatten_dict(changed, sep="/")
    named |= to_names(RECORDS, tree, layer_count(size))
    write_tuned(path, named, metadata)


def write_tuned(
    path: Path | epath.Path, named: Mapping[str, np.ndarray], metadata: dict[str, Any]
) -> None:
    """Writes what was trained under the file's own names; see `Tuned`."""
    text = json.dumps({"format": FORMAT, **metadata})
    arrays = {name: np.ascontiguousarray(x, np.float32) for name, x in named.items()}
    write_atomically(path, safetensors.numpy.save(arrays, metadata={"vop_jax": text}))


def load_tuned(path: Path, size: ClipSize, backbone_sha256: str | None) -> Tuned:
    """Reads trained leaves for a backbone.

    Args:
        path: the file.
        size: of the backbone.
        backbone_sha256: of the backbone the leaves are to be put on; None takes them
            whatever they were trained on.

    Raises:
        UserError: damaged, not of this project, of another format or another backbone.
    """
    named, metadata = read_tuned(path)
    wanted = metadata["backbone_sha256"]
    if None not in (wanted, backbone_sha256) and wanted != backbone_sha256:
        raise UserError(
            f"{path} was trained on another backbone (sha256 {wanted[:12]}..., this "
            f"one is {str(backbone_sha256)[:12]}...); give the one it was trained on, "
            "or say any_backbone=True where you know better"
        )
    prompts = prompt_config(
        {name: value.shape for name, value in named.items()}, metadata, size
    )
    leaves = _take_prompts(named, size, prompts, str(path))
    if named:
        count = layer_count(size)
        touched = targets_of(RECORDS, named, count)
        shapes = {k: v for k, v in param_shapes(size).items() if k in touched}
        tensors = {name: tensor_of(value) for name, value in named.items()}
        params = to_tree(RECORDS, tensors, shapes, count, str(path))
        flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
        leaves |= {f"params/{name}": value for name, value in flat.items()}
    return Tuned(leaves, metadata, prompts)


def _take_prompts(
    named: dict[str, np.ndarray], size: ClipSize, prompts: PromptConfig, where: str
) -> dict[str, np.ndarray]:
    """Moves what is added to the backbone out of `named`, by its path.

    Raises:
        UserError: some of it is missing, or does not fit the backbone.
    """
    leaves = {}
    for path, shape in added_shapes(size, prompts).items():
        name = prompt_name(path)
        if name not in named:
            raise UserError(f"{where}: {name} is missing; fetch or export it again")
        value = leaves[path] = named.pop(name)
        if value.shape != shape:
            raise UserError(
                f"{where}: {name} has shape {list(value.shape)}, but this backbone's "
                f"is {list(shape)}; give the backbone it was trained on"
            )
    return leaves


def added_shapes(size: ClipSize, prompts: PromptConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf of the collection `prompts`, by its whole path."""
    side = size.image_size
    frames = jax.ShapeDtypeStruct((1, prompts.num_frames, side, side, 3), np.uint8)
    ids = jax.ShapeDtypeStruct((1, 2), np.int32)
    key = jax.random.key(0)
    tree = jax.eval_shape(
        DualEncoder(size, prompts).init, {"params": key, "prompts": key}, frames, ids
    )
    flat: dict[str, Any] = traverse_util.flatten_dict(tree.get("prompts", {}), sep="/")
    return {f"prompts/{path}": leaf.shape for path, leaf in flat.items()}


def prompt_config(
    shapes: Mapping[str, tuple[int, ...]], metadata: dict[str, Any], size: ClipSize
) -> PromptConfig:
    """What is prompted, told from a file's names, shapes and metadata.

    Args:
        shapes: of all tensors of the file, by name.
        metadata: see `Tuned`.
        size: of the backbone.
    """

    def axis(name: str, axis: int) -> int:
        if name not in shapes:
            return 0
        if len(shapes[name]) < 2:
            raise UserError(f"{name} has shape {list(shapes[name])}; export it again")
        return shapes[name][axis]

    split, first = metadata["split_layer"], metadata.get("first_layer", 1)
    adapters = [name for name in shapes if name.startswith("adapters.")]
    downs = [name for name in adapters if name.endswith("down.weight")]
    # Table -> the layer of its first row, and the one behind its last if none is cut.
    spans = {
        "text_prompts": (first - 1, size.text.layers),
        "video_prompts": (first - 1, split),
        "position_prompts": (first - 1, split),
        "joint_prompts": (max(first - 1, split), size.vision.layers),
    } | {name: (first - 1, size.tower(name.split(".")[1]).layers) for name in downs}
    ends = {name: start + axis(name, 0) for name, (start, _) in spans.items()}
    cut = any(ends[name] < spans[name][1] for name in spans if name in shapes)
    last = max((ends[name] for name in spans if name in shapes), default=0)
    lstm = "context.lstm.weight_ih_l0"
    cmm = "bilstm" if f"{lstm}_reverse" in shapes else "lstm"
    return PromptConfig(
        text_length=axis("text_prompts", -2),
        video_length=axis("video_prompts", -2),
        position_length=axis("position_prompts", -2),
        context_length=axis("context.fc.weight", 0) // size.vision.width,
        joint_length=axis("joint_prompts", -2),
        first_layer=first,
        last_layer=last if cut else 0,
        split_layer=split,
        num_frames=metadata["num_frames"],
        text_layout=metadata["text_layout"],
        cmm=cmm if lstm in shapes else "transformer",
        cmm_role=metadata.get("cmm_role", "prompts"),
        adapter=adapters[0].split(".")[2] if adapters else "",
        adapter_width=max((axis(name, 1) for name in downs), default=64),
    )


def read_tuned(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The named tensors of a file, and its metadata checked.

    Raises:
        UserError: missing, damaged, or not of this project or format.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = _checked(path, (file.metadata() or {}).get("vop_jax"))
            # safe_open is no mapping: its keys come by method only.
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); fetch it again") from None
    return named, metadata


# Key of the metadata -> what its value must be.
_KEYS: dict[str, Callable[[Any], bool]] = {
    "method": lambda x: isinstance(x, str),
    "num_frames": lambda x: type(x) is int and x >= 1,
    "split_layer": lambda x: type(x) is int and x >= 0,
    "text_layout": lambda x: x in TEXT_LAYOUTS,
    "backbone_sha256": lambda x: x is None or (isinstance(x, str) and len(x) == 64),
}


def _checked(path: Path, text: str | None) -> dict[str, Any]:
    """The JSON under the key `vop_jax` of a file's metadata."""
    if text is None:
        raise UserError(
            f"{path} was not written by vop_jax (no such key in its metadata)"
        )
    try:
        metadata = json.loads(text)
        version = metadata.get("format")
    except (json.JSONDecodeError, AttributeError):
        raise UserError(f"{path}: its vop_jax metadata is not a JSON object") from None
    if version != FORMAT:
        raise UserError(f"{path} has format {version}; this version reads {FORMAT}")
    for key, fits in _KEYS.items():
        if key not in metadata or not fits(metadata[key]):
            raise UserError(
                f"{path}: {key} in its vop_jax metadata is {metadata.get(key)!r}; "
                "export it again"
            )
    return metadata
