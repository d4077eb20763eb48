"""The towers of timm and open_clip of a description.

Imported within `peers.without_torchvision`.
"""

from functools import partial

import torch
from open_clip.transformer import LayerNorm, TextTransformer
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer


def timm_model(size):
    """Timm's vision tower of a description."""
    vision = size.vision
    common = {
        "img_size": size.image_size,
        "patch_size": size.patch_size,
        "embed_dim": vision.width,
        "depth": vision.layers,
        "num_heads": vision.heads,
        "class_token": vision.class_token,
        # Just over, so that its truncation to whole numbers hits.
        "mlp_ratio": (vision.mlp + 0.5) / vision.width,
    }
    if vision.rotary is None:
        return VisionTransformer(
            **common, num_classes=0, global_pool="map", act_layer=vision.activation
        )
    rotary = {
        "use_rot_pos_emb": True,
        "rope_grid_offset": vision.rotary.offset,
        "rope_grid_indexing": vision.rotary.order,
        "ref_feat_shape": (vision.rotary.grid or size.grid,) * 2,
        "num_classes": size.embedding,
    }
    if vision.gated:
        return Eva(
            **common,
            **rotary,
            qkv_fused=False,
            swiglu_mlp=True,
            scale_mlp=True,
            scale_attn_inner=True,
            global_pool="token",
        )
    return Eva(
        **common,
        **rotary,
        attn_type="rope",
        use_pre_transformer_norm=True,
        global_pool="map",
        attn_pool_num_heads=vision.pooling_heads,
        attn_pool_mlp_ratio=vision.pooling_mlp / vision.width,
        norm_layer=partial(LayerNorm, eps=vision.epsilon),
    )


def text_model(size):
    """open_clip's text tower of a description."""
    text = size.text
    tanh = {"approximate": "tanh"} if text.activation == "gelu_tanh" else {}
    kinds = {
        "last": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        "end": {"pool_type": "argmax"},
    }
    return TextTransformer(
        context_length=size.context_length,
        vocab_size=size.vocabulary,
        width=text.width,
        heads=text.heads,
        layers=text.layers,
        mlp_ratio=text.mlp / text.width,
        output_dim=size.embedding,
        act_layer=partial(torch.nn.GELU, **tanh),
        norm_layer=partial(LayerNorm, eps=text.epsilon),
        **kinds[text.reads],
    )
