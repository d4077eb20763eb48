"""A Hugging Face CLIP folder <-> the collection `params`.

The folder (config.json, model.safetensors, tokenizer files) is the project's one
on-disk form of a backbone.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from data_pipelines.errors import UserError
from vop_jax.conversion import (
    CONVOLUTION,
    FLAT,
    LAYER,
    LINEAR,
    LINEAR_OUT,
    Record,
    check_names,
    to_names,
    to_tree,
)
from vop_jax.dual_encoder import DualEncoder
from vop_jax.run_folder import write_atomically
from vop_jax.sizes import ClipSize, TowerSize
from vop_jax.weight_files import (
    FILE_NAMES,
    WEIGHTS,
    Tensor,
    open_weights,
    tensor_of,
    write_safetensors,
)

# Buffers that older files carry and that no model needs.
IGNORED = (
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)


def _norm(source: str, target: str) -> list[Record]:
    return [
        Record(f"{source}.weight", f"{target}/scale"),
        Record(f"{source}.bias", f"{target}/bias"),
    ]


def _layer_records(model: str, tower: str) -> list[Record]:
    """The records of one tower's layers."""
    source, target = f"{model}.encoder.layers.{LAYER}", f"{tower}/{LAYER}"
    records = [
        *_norm(f"{source}.layer_norm1", f"{target}/ln_1"),
        *_norm(f"{source}.layer_norm2", f"{target}/ln_2"),
    ]
    for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value")):
        name, path = f"{source}.self_attn.{theirs}_proj", f"{target}/attention/{ours}"
        records.append(Record(f"{name}.weight", f"{path}/kernel", LINEAR))
        records.append(Record(f"{name}.bias", f"{path}/bias", FLAT))
    name, path = f"{source}.self_attn.out_proj", f"{target}/attention/out"
    records.append(Record(f"{name}.weight", f"{path}/kernel", LINEAR_OUT))
    records.append(Record(f"{name}.bias", f"{path}/bias"))
    for theirs, ours in (("fc1", "fc_1"), ("fc2", "fc_2")):
        name, path = f"{source}.mlp.{theirs}", f"{target}/mlp/{ours}"
        records.append(Record(f"{name}.weight", f"{path}/kernel", LINEAR))
        records.append(Record(f"{name}.bias", f"{path}/bias"))
    return records


RECORDS = (
    Record("logit_scale", "logit_scale"),
    Record("vision_model.embeddings.class_embedding", "vision/class_embedding"),
    Record(
        "vision_model.embeddings.patch_embedding.weight",
        "vision/patch_embedding",
        CONVOLUTION,
    ),
    Record(
        "vision_model.embeddings.position_embedding.weight", "vision/position_embedding"
    ),
    # The misspelling is the name in every published file.
    *_norm("vision_model.pre_layrnorm", "vision/ln_pre"),
    *_layer_records("vision_model", "vision"),
    *_norm("vision_model.post_layernorm", "vision/ln_post"),
    Record("visual_projection.weight", "vision/projection", LINEAR),
    Record("text_model.embeddings.token_embedding.weight", "text/token_embedding"),
    Record(
        "text_model.embeddings.position_embedding.weight", "text/position_embedding"
    ),
    *_layer_records("text_model", "text"),
    *_norm("text_model.final_layer_norm", "text/ln_final"),
    Record("text_projection.weight", "text/projection", LINEAR),
)


class Backbone(NamedTuple):
    """A backbone in memory.

    Attributes:
        size: its shape.
        params: the collection `params`, float32 numpy arrays.
        sha256: of the folder's model.safetensors.
        folder: where it came from.
    """

    size: ClipSize
    params: dict[str, Any]
    sha256: str
    folder: Path


def abstract_params(size: ClipSize) -> dict[str, Any]:
    """The shapes of the collection `params`."""
    image = jax.ShapeDtypeStruct((1, 1, size.image_size, size.image_size, 3), jnp.uint8)
    ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return jax.eval_shape(DualEncoder(size).init, jax.random.key(0), image, ids)[
        "params"
    ]


def param_shapes(size: ClipSize) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf of `params` by its path."""
    flat: dict[str, Any] = traverse_util.flatten_dict(abstract_params(size), sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def layer_count(size: ClipSize) -> Callable[[Record], int]:
    """The number of layers of the tower that a record belongs to."""

    def count(record: Record) -> int:
        tower = size.vision if record.target.startswith("vision") else size.text
        return tower.layers

    return count


def find_folder(name: str | Path) -> Path:
    """The folder of a backbone: a path, or a model's name on the Hugging Face hub.

    Raises:
        UserError: no such folder, and no such model that can be had.
    """
    folder = Path(name).expanduser()
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        return folder
    # Imported late: only a name that is no folder needs the hub.
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "tokenizer.json", "vocab.json", "merges.txt"]
    try:
        for weights in (["*.safetensors", "*.safetensors.index.json"], ["*.bin"]):
            found = snapshot_download(str(name), allow_patterns=wanted + weights)
            if any((Path(found) / x).is_file() for x in FILE_NAMES):
                return Path(found)
    # The hub's client has errors of its own, of its transport and of the system.
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{name} is no folder, and the Hugging Face hub does not give it ({reason})"
        ) from None
    raise UserError(f"{name} on the Hugging Face hub holds no weights of a known name")


def load_backbone(folder: str | Path) -> Backbone:
    """Reads a Hugging Face CLIP folder, or fetches it from the hub by its name.

    Raises:
        UserError: the folder or a file is missing or is not a CLIP that fits.
    """
    folder = find_folder(folder)
    size = load_size(folder)
    with contextlib.ExitStack() as stack:
        weights = open_weights(folder, stack)
        named = {k: x for k, x in weights.tensors.items() if k not in IGNORED}
        shapes, count = param_shapes(size), layer_count(size)
        params = to_tree(RECORDS, named, shapes, count, str(weights.path))
    return Backbone(size, params, weights_sha256(weights.files), folder)


def check_clip(size: ClipSize, tensors: Mapping[str, Tensor], where: str) -> None:
    """Makes sure that tensors under Hugging Face's names are a CLIP of that size.

    Raises:
        UserError: missing, left over, or of another shape.
    """
    check_names(RECORDS, tensors, param_shapes(size), layer_count(size), where)


def save_backbone(
    folder: str | Path, size: ClipSize, params: Any, dtype: str = "F32"
) -> None:
    """Writes config.json and model.safetensors of a Hugging Face CLIP folder."""
    paths = traverse_util.flatten_dict(dict(params), sep="/").keys()
    if paths != param_shapes(size).keys():
        raise ValueError("the parameters are not those of the size")
    named = to_names(RECORDS, params, layer_count(size))
    tensors = {name: tensor_of(value) for name, value in named.items()}
    write_safetensors(Path(folder) / WEIGHTS, tensors, dtype)
    save_size(Path(folder), size)


def save_size(folder: Path, size: ClipSize) -> None:
    """Writes the config.json of a Hugging Face CLIP folder."""
    write_atomically(folder / "config.json", _hugging_face_config(size))


def weights_sha256(files: Sequence[Path]) -> str:
    """The fingerprint of a model's weights: of its file, or of those of its files."""
    digests = [file_sha256(file) for file in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The fingerprint of a file, as a hexadecimal string."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_size(folder: Path) -> ClipSize:
    """Reads the shape of a CLIP from its config.json."""
    # Imported late: transformers takes a second, and only backbones need it.
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CLIPConfig

    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{path} is missing; give a Hugging Face CLIP folder (with {WEIGHTS})"
        )
    try:
        config = CLIPConfig.from_dict(json.loads(path.read_text()))
        # Typed as anything a config file may hold; a CLIPConfig makes them its own.
        vision: Any = config.vision_config
        text: Any = config.text_config
        for part in (vision, text):
            if part.hidden_act not in ("quick_gelu", "gelu"):
                raise ValueError(f"activation {part.hidden_act}")
        # A file of 2021 gives 2 for every CLIP; the EOT is then the highest id.
        eos = text.eos_token_id
        return ClipSize(
            vision=_tower_size(vision),
            text=_tower_size(text),
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            vocabulary=text.vocab_size,
            context_length=text.max_position_embeddings,
            embedding=int(config.projection_dim or 0),
            eos_id=text.vocab_size - 1 if eos == 2 else eos,
        )
    except (
        StrictDataclassError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} does not describe a CLIP ({reason})") from None


def _tower_size(config: Any) -> TowerSize:
    return TowerSize(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        mlp=config.intermediate_size,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
    )


def _hugging_face_config(size: ClipSize) -> str:
    from transformers import CLIPConfig

    def tower(size: TowerSize) -> dict[str, Any]:
        fields = dataclasses.asdict(size)
        return {
            "hidden_size": fields["width"],
            "num_hidden_layers": fields["layers"],
            "num_attention_heads": fields["heads"],
            "intermediate_size": fields["mlp"],
            "hidden_act": fields["activation"],
            "layer_norm_eps": fields["epsilon"],
        }

    config = CLIPConfig(
        vision_config=tower(size.vision)
        | {
            "image_size": size.image_size,
            "patch_size": size.patch_size,
            "projection_dim": size.embedding,
        },
        text_config=tower(size.text)
        | {
            "vocab_size": size.vocabulary,
            "max_position_embeddings": size.context_length,
            "projection_dim": size.embedding,
            "bos_token_id": size.eos_id - 1,
            "eos_token_id": size.eos_id,
            "pad_token_id": 0,
        },
        projection_dim=size.embedding,
        architectures=["CLIPModel"],
    )
    return config.to_json_string(use_diff=False)
