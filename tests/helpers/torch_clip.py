"""CLIP in PyTorch on a plain dictionary under OpenAI's names, for comparison.

Written from the description of the models; every function takes the dictionary.
"""

import math

import torch
import torch.nn.functional as F

from vop_jax.model.clip.sizes import PIXEL_DEVIATION, PIXEL_MEAN

IMAGE, PATCH, VISION, TEXT, EMBEDDING = 32, 16, 128, 64, 24
VISION_LAYERS, TEXT_LAYERS, VOCABULARY, CONTEXT = 3, 2, 49408, 77


def random_state(seed=0, dtype=torch.float32):
    """The tensors of a small CLIP in the order of OpenAI's files."""
    torch.manual_seed(seed)
    shapes = {
        "positional_embedding": (CONTEXT, TEXT),
        "text_projection": (TEXT, EMBEDDING),
        "logit_scale": (),
        "visual.class_embedding": (VISION,),
        "visual.positional_embedding": (1 + (IMAGE // PATCH) ** 2, VISION),
        "visual.proj": (VISION, EMBEDDING),
        "visual.conv1.weight": (VISION, 3, PATCH, PATCH),
        "token_embedding.weight": (VOCABULARY, TEXT),
    }
    for name, width in (("visual.ln_pre", VISION), ("visual.ln_post", VISION)):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    shapes |= {"ln_final.weight": (TEXT,), "ln_final.bias": (TEXT,)}
    for tower, width, layers in (
        ("visual.", VISION, VISION_LAYERS),
        ("", TEXT, TEXT_LAYERS),
    ):
        for i in range(layers):
            layer = f"{tower}transformer.resblocks.{i}"
            shapes |= {
                f"{layer}.attn.in_proj_weight": (3 * width, width),
                f"{layer}.attn.in_proj_bias": (3 * width,),
                f"{layer}.attn.out_proj.weight": (width, width),
                f"{layer}.attn.out_proj.bias": (width,),
                f"{layer}.ln_1.weight": (width,),
                f"{layer}.ln_1.bias": (width,),
                f"{layer}.mlp.c_fc.weight": (4 * width, width),
                f"{layer}.mlp.c_fc.bias": (4 * width,),
                f"{layer}.mlp.c_proj.weight": (width, 4 * width),
                f"{layer}.mlp.c_proj.bias": (width,),
                f"{layer}.ln_2.weight": (width,),
                f"{layer}.ln_2.bias": (width,),
            }
    state = {}
    for name, shape in shapes.items():
        value = 0.1 * torch.randn(shape)
        if "ln_" in name and name.endswith("weight"):
            value = 1 + value
        state[name] = value.to(dtype)
    return state


def quick_gelu(x):
    return x / (1 + torch.exp(-1.702 * x))


def _norm(state, name, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _layer(state, name, x, gelu, causal):
    width = x.shape[-1]
    h = F.linear(
        _norm(state, f"{name}.ln_1", x),
        state[f"{name}.attn.in_proj_weight"],
        state[f"{name}.attn.in_proj_bias"],
    )
    q, k, v = (
        part.unflatten(-1, (width // 64, 64)).transpose(1, 2) for part in h.chunk(3, -1)
    )
    scores = q @ k.transpose(-1, -2) / 8
    if causal:
        mask = torch.full(scores.shape[-2:], -math.inf).triu(1)
        scores = scores + mask
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
    x = x + F.linear(
        mixed,
        state[f"{name}.attn.out_proj.weight"],
        state[f"{name}.attn.out_proj.bias"],
    )
    h = F.linear(
        _norm(state, f"{name}.ln_2", x),
        state[f"{name}.mlp.c_fc.weight"],
        state[f"{name}.mlp.c_fc.bias"],
    )
    return x + F.linear(
        gelu(h), state[f"{name}.mlp.c_proj.weight"], state[f"{name}.mlp.c_proj.bias"]
    )


def encode_videos(state, frames, gelu=quick_gelu, prompts=None):
    """The mean of normalised frame embeddings.

    Prompts `[K, P, D]` stand behind the class token and are dropped after every layer;
    those of layer 1 pass through the first LayerNorm.
    """
    mean, deviation = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_DEVIATION)
    pixels = (torch.tensor(frames) / 255 - mean) / deviation
    batch, count = pixels.shape[:2]
    pixels = pixels.flatten(0, 1).permute(0, 3, 1, 2)
    x = F.conv2d(pixels, state["visual.conv1.weight"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, x], 1) + state["visual.positional_embedding"]
    for i in range(VISION_LAYERS):
        if prompts is not None:
            own = prompts[i].expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], own, x[:, 1:]], 1)
        if i == 0:
            x = _norm(state, "visual.ln_pre", x)
        x = _layer(state, f"visual.transformer.resblocks.{i}", x, gelu, causal=False)
        if prompts is not None:
            x = torch.cat([x[:, :1], x[:, 1 + prompts.shape[1] :]], 1)
    x = _norm(state, "visual.ln_post", x[:, 0]) @ state["visual.proj"]
    return F.normalize(x, dim=-1).unflatten(0, (batch, count)).mean(1)


def encode_texts(state, ids, gelu=quick_gelu, prompts=None):
    """Normalised embeddings.

    Prompts `[K, P, D]` are in the layout of the authors' release: half behind the start
    token, half before the last one, the ids being `[B, 77 - P]`.
    """
    ids = torch.tensor(ids).long()
    x = state["token_embedding.weight"][ids]
    extra = 0 if prompts is None else prompts.shape[1]
    half = extra // 2
    for i in range(TEXT_LAYERS):
        if extra:
            own = prompts[i].expand(len(x), -1, -1)
            x = torch.cat(
                [x[:, :1], own[:, :half], x[:, 1:-1], own[:, half:], x[:, -1:]], 1
            )
        if i == 0:
            x = x + state["positional_embedding"][: x.shape[1]]
        x = _layer(state, f"transformer.resblocks.{i}", x, gelu, causal=True)
        if extra and i + 1 < TEXT_LAYERS:
            behind = x.shape[1] - 1 - (extra - half)
            x = torch.cat([x[:, :1], x[:, 1 + half : behind], x[:, -1:]], 1)
    x = _norm(state, "ln_final", x)
    rows = x[torch.arange(len(x)), ids.argmax(-1) + extra]
    return F.normalize(rows @ state["text_projection"], dim=-1)
