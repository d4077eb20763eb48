"""DGL in PyTorch on a plain dictionary under its released names, for comparison."""

import torch
import torch.nn.functional as F
import torch_clip

from vop_jax.model.clip.sizes import PIXEL_DEVIATION, PIXEL_MEAN

PROMPTS, FRAMES = 4, 3
LAYERS = max(torch_clip.VISION_LAYERS, torch_clip.TEXT_LAYERS)
LAYER = "PromptTransformer.resblocks.0"


def random_prompts(form, seed=2):
    """The tensors of a form that a CLIP lacks, without prefixes."""
    torch.manual_seed(seed)
    width, text = torch_clip.VISION, torch_clip.TEXT
    shapes = {"visual.prompt_embeddings": (1, PROMPTS, width)}
    if form == "linear":
        shapes["visual_prompt_embedding"] = (1, PROMPTS, LAYERS * width)
        for name in ("prefix", "postfix"):
            layer = f"{name}_text_prompt_proj_layer"
            shapes |= {f"{layer}.weight": (text, width), f"{layer}.bias": (text,)}
    else:
        rows = (2 + FRAMES) * PROMPTS
        shapes["unified_prompt_embedding.weight"] = (rows, LAYERS * width)
        for name, inputs, outputs in (
            (f"{LAYER}.attn.in_proj_", width, 3 * width),
            (f"{LAYER}.attn.out_proj.", width, width),
            (f"{LAYER}.mlp.c_fc.", width, 4 * width),
            (f"{LAYER}.mlp.c_proj.", 4 * width, width),
            ("unified_prompt_mlp.c_fc.", width, 2 * width),
            ("unified_prompt_mlp.c_proj.", 2 * width, text),
        ):
            shapes |= {f"{name}weight": (outputs, inputs), f"{name}bias": (outputs,)}
        for name in ("ln_1", "ln_2"):
            norm = f"{LAYER}.{name}"
            shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    state = {name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}
    return {k: x + 1 if ".ln_" in k and "weight" in k else x for k, x in state.items()}


def checkpoint(state, prompts):
    """A file's content as the released code saves it."""
    named = dict(state) | prompts
    tokens = len(state["visual.positional_embedding"])
    named["visual.position_ids"] = torch.arange(tokens)[None]
    whole = {f"module.clip.{name}": value for name, value in named.items()}
    return {"epoch": 5, "arch": "CLIp4Clip", "best_acc1": 0.5, "state_dict": whole}


def _linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def made_of(state, count):
    """Prompts of frames `[K, F, P, Dv]` and of words `[K, 2 P, Dt]`."""
    width = torch_clip.VISION
    if "visual_prompt_embedding" in state:
        rows = state["visual_prompt_embedding"][0].unflatten(-1, (LAYERS, width))
        rows = rows.transpose(0, 1)
        words = [
            _linear(state, f"{name}_text_prompt_proj_layer", rows)
            for name in ("prefix", "postfix")
        ]
        return rows[:, None].expand(-1, count, -1, -1), torch.cat(words, 1)
    rows = state["unified_prompt_embedding.weight"].unflatten(-1, (LAYERS, width))
    rows = torch_clip._layer(
        state, LAYER, rows.transpose(0, 1), torch_clip.quick_gelu, causal=False
    )
    words, frames = rows[:, : 2 * PROMPTS], rows[:, 2 * PROMPTS :]
    words = torch_clip.quick_gelu(_linear(state, "unified_prompt_mlp.c_fc", words))
    words = _linear(state, "unified_prompt_mlp.c_proj", words)
    return frames.unflatten(1, (count, PROMPTS)), words


def _attend(state, name, rows, keys):
    """Rows `[R, D]` over keys `[S, D]`, a head at a time."""
    weights = state[f"{name}.attn.in_proj_weight"].chunk(3)
    biases = state[f"{name}.attn.in_proj_bias"].chunk(3)
    q, k, v = (
        F.linear(x, w, b)
        for x, w, b in zip((rows, keys, keys), weights, biases, strict=True)
    )
    heads = [
        ((a @ b.T) / 8).softmax(-1) @ c
        for a, b, c in zip(*(x.split(64, -1) for x in (q, k, v)), strict=True)
    ]
    return _linear(state, f"{name}.attn.out_proj", torch.cat(heads, -1))


def encode_video(state, frames):
    """The embedding of one video `[F, H, W, 3]`."""
    mean, deviation = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_DEVIATION)
    pixels = ((torch.tensor(frames) / 255 - mean) / deviation).permute(0, 3, 1, 2)
    x = F.conv2d(pixels, state["visual.conv1.weight"], stride=torch_clip.PATCH)
    x = x.flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, x], 1) + state["visual.positional_embedding"]
    x = torch_clip._norm(state, "visual.ln_pre", x)
    prompts, _ = made_of(state, len(x))
    g = state["visual.prompt_embeddings"][0]
    for i in range(torch_clip.VISION_LAYERS):
        name = f"visual.transformer.resblocks.{i}"
        x = torch.cat([x[:, :1], prompts[i], x[:, 1:]], 1)
        h, of_g = (torch_clip._norm(state, f"{name}.ln_1", y) for y in (x, g))
        mixed = [_attend(state, name, y, torch.cat([of_g, y])) for y in h]
        x = x + torch.stack(mixed)
        g = g + _attend(state, name, of_g, torch.cat([of_g, h.flatten(0, 1)]))

        def fed(y, name=name):
            hidden = torch_clip._norm(state, f"{name}.ln_2", y)
            hidden = torch_clip.quick_gelu(_linear(state, f"{name}.mlp.c_fc", hidden))
            return y + _linear(state, f"{name}.mlp.c_proj", hidden)

        x, g = fed(x), fed(g)
        x = torch.cat([x[:, :1], x[:, 1 + PROMPTS :]], 1)
    row = torch_clip._norm(state, "visual.ln_post", g[0]) @ state["visual.proj"]
    return F.normalize(row, dim=-1)


def encode_videos(state, frames):
    return torch.stack([encode_video(state, video) for video in frames])


def encode_texts(state, ids):
    """[SOT, prefix, words and padding, postfix]; replaced at every layer."""
    ids = torch.tensor(ids).long()
    x = state["token_embedding.weight"][ids]
    x = x + state["positional_embedding"][: x.shape[1]]
    _, words = made_of(state, FRAMES)
    for i in range(torch_clip.TEXT_LAYERS):
        own = words[i].expand(len(x), -1, -1)
        if i:
            x = torch.cat([x[:, :1], x[:, 1 + PROMPTS : -PROMPTS]], 1)
        x = torch.cat([x[:, :1], own[:, :PROMPTS], x[:, 1:], own[:, PROMPTS:]], 1)
        name = f"transformer.resblocks.{i}"
        x = torch_clip._layer(state, name, x, torch_clip.quick_gelu, causal=True)
    x = torch_clip._norm(state, "ln_final", x)
    rows = x[torch.arange(len(x)), ids.argmax(-1) + PROMPTS]
    return F.normalize(rows @ state["text_projection"], dim=-1)
