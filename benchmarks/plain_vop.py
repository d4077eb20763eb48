"""Base VoP in plain PyTorch, from the paper: what the train step is compared with.

Prompts are concatenated to the tokens before every layer and cut off behind it, the
backbone is frozen, AdamW moves the prompts. PyTorch's own modules do the work.
"""

import torch
import torch.nn.functional as F
from torch import nn

from vop_jax.model.clip.sizes import PIXEL_DEVIATION, PIXEL_MEAN, ClipSize, TowerSize


class QuickGelu(nn.Module):
    """CLIP's activation."""

    def forward(self, x):
        """Applies it."""
        return x * torch.sigmoid(1.702 * x)


class Layer(nn.Module):
    """A layer of CLIP, as OpenAI's code has it."""

    def __init__(self, size: TowerSize):
        super().__init__()
        self.attention = nn.MultiheadAttention(size.width, size.heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(size.width, eps=size.epsilon)
        self.mlp = nn.Sequential(
            nn.Linear(size.width, size.mlp),
            QuickGelu(),
            nn.Linear(size.mlp, size.width),
        )
        self.ln_2 = nn.LayerNorm(size.width, eps=size.epsilon)

    def forward(self, x, mask=None):
        """Runs it on `[B, S, D]`."""
        h = self.ln_1(x)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class PlainVop(nn.Module):
    """Both towers with prompts.

    Args:
        size: of the backbone.
        prompts: P, of each layer of both towers.
    """

    def __init__(self, size: ClipSize, prompts: int):
        super().__init__()
        vision, text = size.vision, size.text
        self.eos_id = size.eos_id
        self.patches = nn.Conv2d(
            3, vision.width, size.patch_size, size.patch_size, bias=False
        )
        self.class_embedding = nn.Parameter(torch.empty(vision.width))
        self.vision_positions = nn.Parameter(
            torch.empty(1 + size.patches, vision.width)
        )
        self.ln_pre = nn.LayerNorm(vision.width, eps=vision.epsilon)
        self.vision_layers = nn.ModuleList(Layer(vision) for _ in range(vision.layers))
        self.ln_post = nn.LayerNorm(vision.width, eps=vision.epsilon)
        self.vision_projection = nn.Linear(vision.width, size.embedding, bias=False)
        self.tokens = nn.Embedding(size.vocabulary, text.width)
        self.text_positions = nn.Parameter(torch.empty(size.context_length, text.width))
        self.text_layers = nn.ModuleList(Layer(text) for _ in range(text.layers))
        self.ln_final = nn.LayerNorm(text.width, eps=text.epsilon)
        self.text_projection = nn.Linear(text.width, size.embedding, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.requires_grad_(False)
        self.video_prompts = nn.Parameter(
            torch.empty(vision.layers, prompts, vision.width)
        )
        self.text_prompts = nn.Parameter(torch.empty(text.layers, prompts, text.width))
        length = size.context_length + prompts
        mask = torch.full((length, length), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).reshape(shape))
        self.register_buffer("deviation", torch.tensor(PIXEL_DEVIATION).reshape(shape))

    def encode_videos(self, frames):
        """`[B, F, H, W, 3]` bytes -> `[B, E]`."""
        batch, count = frames.shape[:2]
        pixels = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        x = self.patches((pixels - self.mean) / self.deviation)
        x = x.flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        x = torch.cat([first, x], dim=1) + self.vision_positions
        many = self.video_prompts.shape[1]
        for i, layer in enumerate(self.vision_layers):
            prompts = self.video_prompts[i].expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], prompts, x[:, 1:]], dim=1)
            x = layer(self.ln_pre(x) if i == 0 else x)
            x = torch.cat([x[:, :1], x[:, 1 + many :]], dim=1)
        features = self.vision_projection(self.ln_post(x[:, 0]))
        return F.normalize(features, dim=-1).reshape(batch, count, -1).mean(1)

    def encode_texts(self, ids):
        """`[B, N]` ids of the full context length -> `[B, E]`."""
        x = self.tokens(ids) + self.text_positions
        many = self.text_prompts.shape[1]
        for i, layer in enumerate(self.text_layers):
            prompts = self.text_prompts[i].expand(len(x), -1, -1)
            x = layer(torch.cat([prompts, x], dim=1), self.mask)[:, many:]
        end = (ids == self.eos_id).int().argmax(-1)
        x = self.ln_final(x)[torch.arange(len(x)), end]
        return F.normalize(self.text_projection(x), dim=-1)

    def forward(self, frames, ids):
        """The loss and the features."""
        videos, texts = self.encode_videos(frames), self.encode_texts(ids)
        logits = self.logit_scale.exp() * texts @ videos.T
        labels = torch.arange(len(logits))
        loss = F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
        return loss / 2, videos, texts


def load(model: PlainVop, named, video_prompts, text_prompts) -> None:
    """Fills the model.

    Args:
        model: to be filled.
        named: arrays by Hugging Face's names of a CLIP's tensors.
        video_prompts: `[K, P, Dv]`.
        text_prompts: `[K, P, Dt]`.
    """
    state = {"video_prompts": video_prompts, "text_prompts": text_prompts}
    straight = {
        "class_embedding": "vision_model.embeddings.class_embedding",
        "vision_positions": "vision_model.embeddings.position_embedding.weight",
        "patches.weight": "vision_model.embeddings.patch_embedding.weight",
        "ln_pre.weight": "vision_model.pre_layrnorm.weight",
        "ln_pre.bias": "vision_model.pre_layrnorm.bias",
        "ln_post.weight": "vision_model.post_layernorm.weight",
        "ln_post.bias": "vision_model.post_layernorm.bias",
        "vision_projection.weight": "visual_projection.weight",
        "tokens.weight": "text_model.embeddings.token_embedding.weight",
        "text_positions": "text_model.embeddings.position_embedding.weight",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "ln_final.bias": "text_model.final_layer_norm.bias",
        "text_projection.weight": "text_projection.weight",
        "logit_scale": "logit_scale",
    }
    state |= {ours: named[theirs] for ours, theirs in straight.items()}
    for tower in ("vision", "text"):
        for i in range(len(getattr(model, f"{tower}_layers"))):
            ours = f"{tower}_layers.{i}"
            theirs = f"{tower}_model.encoder.layers.{i}"
            for part in ("weight", "bias"):
                state |= {
                    f"{ours}.{a}.{part}": named[f"{theirs}.{b}.{part}"]
                    for a, b in (
                        ("ln_1", "layer_norm1"),
                        ("ln_2", "layer_norm2"),
                        ("mlp.0", "mlp.fc1"),
                        ("mlp.2", "mlp.fc2"),
                        ("attention.out_proj", "self_attn.out_proj"),
                    )
                }
                state[f"{ours}.attention.in_proj_{part}"] = torch.cat(
                    [
                        torch.tensor(named[f"{theirs}.self_attn.{x}_proj.{part}"])
                        for x in "qkv"
                    ]
                )
    model.load_state_dict(
        {name: torch.as_tensor(value) for name, value in state.items()}, strict=False
    )
