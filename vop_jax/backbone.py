"""A Hugging Face CLIP folder <-> the collection `params`.

The folder (config.json, model.safetensors, tokenizer files) is the project's one
on-disk form of a backbone.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from data_pipelines.errors import UserError
from vop_jax.conversion import (
    CONVOLUTION,
    FLAT,
    LAYER,
    LINEAR,
    LINEAR_OUT,
    Record,
    to_names,
    to_tree,
)
from vop_jax.dual_encoder import DualEncoder
from vop_jax.sizes import ClipSize, TowerSize

WEIGHTS = "model.safetensors"

# Buffers that older files carry and that no model needs.
_IGNORED = (
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


def load_backbone(folder: str | Path) -> Backbone:
    """Reads a Hugging Face CLIP folder.

    Raises:
        UserError: the folder or a file is missing or is not a CLIP that fits.
    """
    folder = Path(folder).expanduser()
    size = load_size(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(
            f"{path} is missing; a backbone is a Hugging Face CLIP folder with "
            f"config.json and {WEIGHTS}"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if name not in _IGNORED]  # noqa: SIM118
            params = to_tree(
                RECORDS,
                names,
                file.get_tensor,
                param_shapes(size),
                layer_count(size),
                str(path),
            )
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); fetch it again") from None
    return Backbone(size, params, file_sha256(path), folder)


def save_backbone(
    folder: str | Path, size: ClipSize, params: Any, dtype: Any = np.float32
) -> None:
    """Writes config.json and model.safetensors of a Hugging Face CLIP folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = traverse_util.flatten_dict(dict(params), sep="/").keys()
    if paths != param_shapes(size).keys():
        raise ValueError("the parameters are not those of the size")
    named = to_names(RECORDS, params, layer_count(size))
    safetensors.numpy.save_file(
        {name: value.astype(dtype) for name, value in named.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text(_hugging_face_config(size))


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
