"""The names of other projects' tensors, a table for each format.

Sources: OpenAI's CLIP, open_clip 3.3.0 with timm 1.0.31, perception_models, big_vision,
transformers 5.
"""

from vop_jax.weights.records import LAYER
from vop_jax.weights.renames import (
    FLAT,
    INTO,
    OUT,
    PATCHES,
    ROWS,
    SCALAR,
    TRANSPOSED,
    Rename,
    both,
    parts,
    split,
)

_TEXT, _VISION = "text_model.embeddings", "vision_model.embeddings"
_HEAD = "vision_model.head"
_POOLING = [f"{_HEAD}.attention.{x}_proj" for x in "qkv"]
_POSITIONS = f"{_VISION}.position_embedding.weight"


def _mixed(layer: str) -> list[str]:
    return [f"{layer}.self_attn.{x}_proj" for x in "qkv"]


def _resblocks(theirs: str, ours: str) -> list[Rename]:
    """The layers of a tower as OpenAI names them."""
    source = f"{theirs}transformer.resblocks.{LAYER}"
    target = f"{ours}.encoder.layers.{LAYER}"
    return [
        *both(f"{source}.ln_1", f"{target}.layer_norm1"),
        *split(f"{source}.attn.in_proj_", _mixed(target)),
        *both(f"{source}.attn.out_proj", f"{target}.self_attn.out_proj"),
        *both(f"{source}.ln_2", f"{target}.layer_norm2"),
        *both(f"{source}.mlp.c_fc", f"{target}.mlp.fc1"),
        *both(f"{source}.mlp.c_proj", f"{target}.mlp.fc2"),
    ]


def _same(name: str) -> Rename:
    return Rename(name, (name,))


_OPENAI_TEXT = (
    Rename("positional_embedding", (f"{_TEXT}.position_embedding.weight",)),
    Rename("text_projection", ("text_projection.weight",), TRANSPOSED),
    _same("logit_scale"),
)
_OPENAI_ENDS = (
    *_resblocks("", "text_model"),
    Rename("token_embedding.weight", (f"{_TEXT}.token_embedding.weight",)),
    *both("ln_final", "text_model.final_layer_norm"),
)
_OPENAI_VISION = (
    Rename("visual.positional_embedding", (_POSITIONS,)),
    Rename("visual.proj", ("visual_projection.weight",), TRANSPOSED),
    Rename("visual.conv1.weight", (f"{_VISION}.patch_embedding.weight",)),
    # The misspelling is the published name.
    *both("visual.ln_pre", "vision_model.pre_layrnorm"),
    *_resblocks("visual.", "vision_model"),
    *both("visual.ln_post", "vision_model.post_layernorm"),
)
_CLASS = Rename("visual.class_embedding", (f"{_VISION}.class_embedding",))
# OpenAI's names, which open_clip and the authors' release use as well.
OPENAI = (*_OPENAI_TEXT, _CLASS, *_OPENAI_VISION, *_OPENAI_ENDS)
# Perception Encoder's own files: OpenAI's names and the pooling; G has no class token.
PE_CORE = (
    *_OPENAI_TEXT,
    Rename(_CLASS.theirs, _CLASS.ours, optional=True),
    *_OPENAI_VISION,
    Rename("visual.attn_pool.probe", (f"{_HEAD}.probe",)),
    *split("visual.attn_pool.attn.in_proj_", _POOLING),
    *both("visual.attn_pool.attn.out_proj", f"{_HEAD}.attention.out_proj"),
    *both("visual.attn_pool.layernorm", f"{_HEAD}.layernorm"),
    *both("visual.attn_pool.mlp.c_fc", f"{_HEAD}.mlp.fc1"),
    *both("visual.attn_pool.mlp.c_proj", f"{_HEAD}.mlp.fc2"),
    *_OPENAI_ENDS,
)


def _hugging_face_tower(model: str) -> list[Rename]:
    """The layers of a tower, whose names are ours."""
    layer = f"{model}.encoder.layers.{LAYER}"
    modules = ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
    modules += tuple(f"self_attn.{x}_proj" for x in ("q", "k", "v", "out"))
    return [x for m in modules for x in both(f"{layer}.{m}", f"{layer}.{m}")]


# transformers' SigLIP.
SIGLIP = (
    Rename("logit_scale", ("logit_scale",), SCALAR),
    Rename("logit_bias", ("logit_bias",), SCALAR),
    *both(f"{_VISION}.patch_embedding", f"{_VISION}.patch_embedding"),
    _same(_POSITIONS),
    *_hugging_face_tower("vision_model"),
    *both("vision_model.post_layernorm", "vision_model.post_layernorm"),
    _same(f"{_HEAD}.probe"),
    *split(f"{_HEAD}.attention.in_proj_", _POOLING),
    *both(f"{_HEAD}.attention.out_proj", f"{_HEAD}.attention.out_proj"),
    *both(f"{_HEAD}.layernorm", f"{_HEAD}.layernorm"),
    *both(f"{_HEAD}.mlp.fc1", f"{_HEAD}.mlp.fc1"),
    *both(f"{_HEAD}.mlp.fc2", f"{_HEAD}.mlp.fc2"),
    *parts(_TEXT, _TEXT, "token_embedding.weight", "position_embedding.weight"),
    *_hugging_face_tower("text_model"),
    *both("text_model.final_layer_norm", "text_model.final_layer_norm"),
    *both("text_model.head", "text_projection"),
)

# open_clip with `custom_text` and a trunk of timm.
_BLOCK = f"visual.trunk.blocks.{LAYER}"
_LAYER = f"vision_model.encoder.layers.{LAYER}"
_TIMM_ENDS = (
    *both(f"{_BLOCK}.norm1", f"{_LAYER}.layer_norm1"),
    *both(f"{_BLOCK}.attn.proj", f"{_LAYER}.self_attn.out_proj"),
    *both(f"{_BLOCK}.norm2", f"{_LAYER}.layer_norm2"),
    *both(f"{_BLOCK}.mlp.fc2", f"{_LAYER}.mlp.fc2"),
    Rename("visual.trunk.pos_embed", (_POSITIONS,), ROWS),
    *both("visual.trunk.norm", "vision_model.post_layernorm"),
)
_TIMM_FUSED = (
    *split(f"{_BLOCK}.attn.qkv.", _mixed(_LAYER)),
    *both(f"{_BLOCK}.mlp.fc1", f"{_LAYER}.mlp.fc1"),
)
_TIMM_POOL = (
    Rename("visual.trunk.attn_pool.latent", (f"{_HEAD}.probe",)),
    *both("visual.trunk.attn_pool.q", _POOLING[0]),
    *split("visual.trunk.attn_pool.kv.", _POOLING[1:]),
    *both("visual.trunk.attn_pool.proj", f"{_HEAD}.attention.out_proj"),
    *both("visual.trunk.attn_pool.norm", f"{_HEAD}.layernorm"),
    *both("visual.trunk.attn_pool.mlp.fc1", f"{_HEAD}.mlp.fc1"),
    *both("visual.trunk.attn_pool.mlp.fc2", f"{_HEAD}.mlp.fc2"),
)
_PATCHES = both("visual.trunk.patch_embed.proj", f"{_VISION}.patch_embedding")
_TIMM_CLASS = Rename("visual.trunk.cls_token", _CLASS.ours, FLAT, optional=True)
_TIMM_HEAD = both("visual.trunk.head", "visual_projection")
# The names of the text tower are those without the prefix `text.`, see `clip_names`.
TIMM_SIGLIP = (
    _same("logit_scale"),
    _same("logit_bias"),
    *_PATCHES,
    *_TIMM_ENDS,
    *_TIMM_FUSED,
    *_TIMM_POOL,
    _OPENAI_TEXT[0],
    *both("text_projection", "text_projection"),
    *_OPENAI_ENDS,
)
TIMM_PE_CORE = (
    _PATCHES[0],
    _TIMM_CLASS,
    *both("visual.trunk.norm_pre", "vision_model.pre_layrnorm"),
    *_TIMM_ENDS,
    *_TIMM_FUSED,
    *_TIMM_POOL,
    *_TIMM_HEAD,
    *_OPENAI_TEXT,
    *_OPENAI_ENDS,
)
TIMM_EVA02 = (
    *_PATCHES,
    _TIMM_CLASS,
    *_TIMM_ENDS,
    *both(f"{_BLOCK}.attn.q_proj", f"{_LAYER}.self_attn.q_proj"),
    *parts(f"{_BLOCK}.attn.k_proj", f"{_LAYER}.self_attn.k_proj", "weight"),
    *both(f"{_BLOCK}.attn.v_proj", f"{_LAYER}.self_attn.v_proj"),
    *both(f"{_BLOCK}.attn.norm", f"{_LAYER}.self_attn.norm"),
    *both(f"{_BLOCK}.mlp.fc1_g", f"{_LAYER}.mlp.gate_proj"),
    *both(f"{_BLOCK}.mlp.fc1_x", f"{_LAYER}.mlp.up_proj"),
    *both(f"{_BLOCK}.mlp.norm", f"{_LAYER}.mlp.norm"),
    *_TIMM_HEAD,
    *_OPENAI_TEXT,
    *_OPENAI_ENDS,
)


def _dense(theirs: str, ours: str) -> list[Rename]:
    return [
        Rename(f"{theirs}/kernel", (f"{ours}.weight",), INTO),
        Rename(f"{theirs}/bias", (f"{ours}.bias",)),
    ]


def _norm(theirs: str, ours: str) -> list[Rename]:
    return [
        Rename(f"{theirs}/scale", (f"{ours}.weight",)),
        Rename(f"{theirs}/bias", (f"{ours}.bias",)),
    ]


def _attention(theirs: str, ours: str) -> list[Rename]:
    records = [
        record
        for name in ("query", "key", "value")
        for record in (
            Rename(f"{theirs}/{name}/kernel", (f"{ours}.{name[0]}_proj.weight",), INTO),
            Rename(f"{theirs}/{name}/bias", (f"{ours}.{name[0]}_proj.bias",), FLAT),
        )
    ]
    return [
        *records,
        Rename(f"{theirs}/out/kernel", (f"{ours}.out_proj.weight",), OUT),
        Rename(f"{theirs}/out/bias", (f"{ours}.out_proj.bias",)),
    ]


def _encoder(theirs: str, model: str, last: str) -> list[Rename]:
    source, target = f"{theirs}/encoderblock_{LAYER}", f"{model}.encoder.layers.{LAYER}"
    return [
        *_norm(f"{source}/LayerNorm_0", f"{target}.layer_norm1"),
        *_norm(f"{source}/LayerNorm_1", f"{target}.layer_norm2"),
        *_attention(f"{source}/MultiHeadDotProductAttention_0", f"{target}.self_attn"),
        *_dense(f"{source}/MlpBlock_0/Dense_0", f"{target}.mlp.fc1"),
        *_dense(f"{source}/MlpBlock_0/Dense_1", f"{target}.mlp.fc2"),
        *_norm(f"{theirs}/encoder_norm", f"{model}.{last}"),
    ]


_MAP = "params/img/MAPHead_0"
# big_vision's SigLIP.
BIG_VISION = (
    Rename("params/t", ("logit_scale",), SCALAR),
    Rename("params/b", ("logit_bias",), SCALAR),
    Rename(
        "params/img/embedding/kernel", (f"{_VISION}.patch_embedding.weight",), PATCHES
    ),
    Rename("params/img/embedding/bias", (f"{_VISION}.patch_embedding.bias",)),
    Rename("params/img/pos_embedding", (_POSITIONS,), ROWS),
    *_encoder("params/img/Transformer", "vision_model", "post_layernorm"),
    Rename(f"{_MAP}/probe", (f"{_HEAD}.probe",)),
    *_attention(f"{_MAP}/MultiHeadDotProductAttention_0", f"{_HEAD}.attention"),
    *_norm(f"{_MAP}/LayerNorm_0", f"{_HEAD}.layernorm"),
    *_dense(f"{_MAP}/MlpBlock_0/Dense_0", f"{_HEAD}.mlp.fc1"),
    *_dense(f"{_MAP}/MlpBlock_0/Dense_1", f"{_HEAD}.mlp.fc2"),
    Rename("params/txt/Embed_0/embedding", (f"{_TEXT}.token_embedding.weight",)),
    Rename("params/txt/pos_embedding", (f"{_TEXT}.position_embedding.weight",), ROWS),
    *_encoder("params/txt/Encoder_0", "text_model", "final_layer_norm"),
    *_dense("params/txt/head", "text_projection"),
)
