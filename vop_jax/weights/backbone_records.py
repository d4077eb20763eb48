"""The tensors of a backbone on disk <-> its parameters, for every family.

The names are Hugging Face's of a CLIP; parts that a CLIP lacks are named like them. A
record whose parameter a description lacks is ignored.
"""

from collections.abc import Callable, Sequence

from vop_jax.model.clip.sizes import ClipSize
from vop_jax.weights.records import (
    CONVOLUTION,
    FLAT,
    LAYER,
    LINEAR,
    LINEAR_OUT,
    PROBE,
    TensorRecord,
)


def _norm(source: str, target: str) -> list[TensorRecord]:
    return [
        TensorRecord(f"{source}.weight", f"{target}/scale"),
        TensorRecord(f"{source}.bias", f"{target}/bias"),
    ]


def _linear(source: str, target: str) -> list[TensorRecord]:
    return [
        TensorRecord(f"{source}.weight", f"{target}/kernel", LINEAR),
        TensorRecord(f"{source}.bias", f"{target}/bias"),
    ]


def _attention(source: str, target: str) -> list[TensorRecord]:
    records = []
    for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value")):
        name, path = f"{source}.{theirs}_proj", f"{target}/{ours}"
        records.append(TensorRecord(f"{name}.weight", f"{path}/kernel", LINEAR))
        records.append(TensorRecord(f"{name}.bias", f"{path}/bias", FLAT))
    name, path = f"{source}.out_proj", f"{target}/out"
    records.append(TensorRecord(f"{name}.weight", f"{path}/kernel", LINEAR_OUT))
    records.append(TensorRecord(f"{name}.bias", f"{path}/bias"))
    return records


def _named(pairs: Sequence[tuple[str, str]], source: str, target: str, records):
    return [
        record
        for theirs, ours in pairs
        for record in records(f"{source}.{theirs}", f"{target}/{ours}")
    ]


_MLP = (("fc1", "fc_1"), ("gate_proj", "gate"), ("up_proj", "up"), ("fc2", "fc_2"))


def _layers(model: str, tower: str) -> list[TensorRecord]:
    """The records of one tower's layers."""
    source, target = f"{model}.encoder.layers.{LAYER}", f"{tower}/{LAYER}"
    return [
        *_norm(f"{source}.layer_norm1", f"{target}/ln_1"),
        *_norm(f"{source}.layer_norm2", f"{target}/ln_2"),
        *_attention(f"{source}.self_attn", f"{target}/attention"),
        *_norm(f"{source}.self_attn.norm", f"{target}/attention/ln"),
        *_named(_MLP, f"{source}.mlp", f"{target}/mlp", _linear),
        *_norm(f"{source}.mlp.norm", f"{target}/mlp/ln"),
    ]


_VISION, _TEXT = "vision_model.embeddings", "text_model.embeddings"
_HEAD, _POOLING = "vision_model.head", "vision/pooling"
RECORDS = (
    TensorRecord("logit_scale", "logit_scale"),
    TensorRecord("logit_bias", "logit_bias"),
    TensorRecord(f"{_VISION}.class_embedding", "vision/class_embedding"),
    TensorRecord(
        f"{_VISION}.patch_embedding.weight", "vision/patch_embedding", CONVOLUTION
    ),
    TensorRecord(f"{_VISION}.patch_embedding.bias", "vision/patch_bias"),
    TensorRecord(f"{_VISION}.position_embedding.weight", "vision/position_embedding"),
    # The misspelling is the published name.
    *_norm("vision_model.pre_layrnorm", "vision/ln_pre"),
    *_layers("vision_model", "vision"),
    *_norm("vision_model.post_layernorm", "vision/ln_post"),
    TensorRecord(f"{_HEAD}.probe", f"{_POOLING}/probe", PROBE),
    *_attention(f"{_HEAD}.attention", f"{_POOLING}/attention"),
    *_norm(f"{_HEAD}.layernorm", f"{_POOLING}/ln"),
    *_named((_MLP[0], _MLP[-1]), f"{_HEAD}.mlp", f"{_POOLING}/mlp", _linear),
    TensorRecord("visual_projection.weight", "vision/projection", LINEAR),
    TensorRecord("visual_projection.bias", "vision/projection_bias"),
    TensorRecord(f"{_TEXT}.token_embedding.weight", "text/token_embedding"),
    TensorRecord(f"{_TEXT}.position_embedding.weight", "text/position_embedding"),
    *_layers("text_model", "text"),
    *_norm("text_model.final_layer_norm", "text/ln_final"),
    TensorRecord("text_projection.weight", "text/projection", LINEAR),
    TensorRecord("text_projection.bias", "text/projection_bias"),
)


def layer_count(size: ClipSize) -> Callable[[TensorRecord], int]:
    """The number of layers of the tower that a record belongs to."""

    def count(record: TensorRecord) -> int:
        tower = size.vision if record.target.startswith("vision") else size.text
        return tower.layers

    return count
