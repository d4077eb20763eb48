"""Runs a tuned model in PyTorch: transformers' CLIPModel with the tuned parameters.

    python -m vop_jax.convert --input=runs/demo_vop_fc --output=for_torch --to=torch
    python examples/use_in_pytorch.py for_torch --frames=frames.npy "a red circle"

This file needs torch, transformers, safetensors and NumPy, and nothing of this project:
take it along. It knows, on a CLIP: text and video prompts, position prompts (P),
prompts generated from the frames (C), joint attention over all frames (F) and their
unions, LoRA, adapters, and tuned weights of CLIP itself. It refuses global prompts,
fusion of frames, merging and adapters that look at all frames (dgl_*, ivfusion,
discovla, tempme, mv_adapter). Frames are uint8 `[videos, frames, height, width, 3]` of
the backbone's image size.

Letters: B videos or texts, F frames, S tokens of a frame, P prompts, D width.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPModel

# What OpenAI's CLIP was trained with, if the folder does not say otherwise.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
# How the tensors are called that are added; all others replace CLIP's own.
ADDED = (
    *("text_prompts", "video_prompts", "position_prompts", "joint_prompts"),
    *("frame_positions", "context.", "lora."),
    *(f"adapters.{x}.{y}." for x in ("vision", "text") for y in ("attention", "mlp")),
)


class TunedClip(torch.nn.Module):
    """A frozen CLIP with its tuned parameters.

    Args:
        folder: a CLIP of transformers, with a `tuned.safetensors` in it.
        tuned: another such file.
    """

    def __init__(self, folder: str | Path, tuned: str | Path | None = None):
        super().__init__()
        folder = Path(folder)
        with safe_open(tuned or folder / "tuned.safetensors", "pt") as file:
            metadata = json.loads(file.metadata()["vop_jax"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["text_layout"] != "prefix" or "cmm_role" in metadata:
            raise ValueError("prompts in a place that this file does not know")
        self.clip = CLIPModel.from_pretrained(folder, attn_implementation="eager")
        self.first = metadata.get("first_layer", 1) - 1
        self.split = metadata["split_layer"]
        self.num_frames = metadata["num_frames"]
        self.renormalize = metadata.get("renormalize_video", False)
        added = {k: x for k, x in tensors.items() if k.startswith(ADDED)}
        changed = {k: x for k, x in tensors.items() if k not in added}
        if more := self.clip.load_state_dict(changed, strict=False).unexpected_keys:
            raise ValueError(f"tuned weights that this file does not know: {more[0]}")
        self._add_lora(added, metadata.get("lora_parts", "qkv"))
        self.context = _context(added)
        for name, tensor in added.items():
            self.register_buffer(_key(name), tensor)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN))
        self.register_buffer("deviation", torch.tensor(PIXEL_DEVIATION))
        stated = folder / "preprocessor_config.json"
        if stated.is_file():
            values = json.loads(stated.read_text())
            self.mean = torch.tensor(values["image_mean"])
            self.deviation = torch.tensor(values["image_std"])
        self.requires_grad_(False).eval()

    def _layers(self, tower: str) -> torch.nn.ModuleList:
        return getattr(self.clip, f"{tower}_model").encoder.layers

    @torch.no_grad()
    def _add_lora(self, added: dict[str, torch.Tensor], parts: str) -> None:
        """Adds B A to the projections of every changed layer."""
        for tower in ("vision", "text"):
            if f"lora.{tower}.A" not in added:
                continue
            down, up = (added[f"lora.{tower}.{x}"].double() for x in "AB")
            layers = self._layers(tower)[self.first :]
            for layer, a, b in zip(layers, down, up, strict=False):
                for part, rows in zip(parts, b.chunk(len(parts)), strict=True):
                    weight = getattr(layer.self_attn, f"{part}_proj").weight
                    weight.copy_(weight.double() + rows @ a)

    def _row(self, name: str, layer: int, first: int) -> torch.Tensor | None:
        """The row of a table that belongs to a layer, if there is one."""
        table = self._buffers.get(_key(name))
        if table is None or not first <= layer < first + len(table):
            return None
        return table[layer - first]

    def _adapted(self, tower: str, place: str, layer: int, x: torch.Tensor) -> Any:
        """What an adapter adds beside a part of a layer; 0 without one."""
        names = ("down.weight", "down.bias", "up.weight", "up.bias")
        start = f"adapters.{tower}.{place}"
        rows = [self._row(f"{start}.{name}", layer, self.first) for name in names]
        if rows[0] is None:
            return 0.0
        down, down_bias, up, up_bias = rows
        return torch.relu(x @ down.T + down_bias) @ up.T + up_bias

    def _layer(
        self,
        tower: str,
        number: int,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One layer of CLIP on `[B, S, D]`, as transformers has it."""
        layer = self._layers(tower)[number]
        h = layer.layer_norm1(x)
        added = self._adapted(tower, "attention", number, h)
        x = x + layer.self_attn(h, mask)[0] + added
        h = layer.layer_norm2(x)
        return x + layer.mlp(h) + self._adapted(tower, "mlp", number, h)

    @torch.no_grad()
    def encode_texts(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeds token ids `[B, N]` that end with the EOT token.

        Prompts stand before all words in every layer. What a layer makes of them is
        dropped, and the next layer gets its own.
        """
        text = self.clip.text_model
        x = text.embeddings(input_ids=ids)
        for number in range(len(text.encoder.layers)):
            prompts = self._row("text_prompts", number, self.first)
            count = 0 if prompts is None else len(prompts)
            if prompts is not None:
                x = torch.cat([prompts.expand(len(x), -1, -1), x], dim=1)
            length = x.shape[1]
            mask = torch.full((length, length), -torch.inf, device=x.device).triu(1)
            x = self._layer("text", number, x, mask[None, None])[:, count:]
        x = text.final_layer_norm(x)
        eot = self.clip.config.text_config.eos_token_id
        # In OpenAI's own files the EOT token is the largest id, and stated as 2.
        ends = ids.argmax(1) if eot == 2 else (ids == eot).int().argmax(1)
        x = x[torch.arange(len(x), device=x.device), ends]
        return normalize(self.clip.text_projection(x), dim=-1)

    @torch.no_grad()
    def encode_videos(self, frames: torch.Tensor) -> torch.Tensor:
        """Embeds uint8 `[B, F, H, W, 3]`: the mean of the frames' embeddings."""
        videos, count = frames.shape[:2]
        vision = self.clip.vision_model
        pixels = (frames.flatten(0, 1) / 255 - self.mean) / self.deviation
        # The class token is the first of the S tokens of a frame.
        x = vision.pre_layrnorm(vision.embeddings(pixels.permute(0, 3, 1, 2)))
        x = x.unflatten(0, (videos, count))
        for number in range(self.split):
            prompts = self._frame_prompts(number, x)
            x = torch.cat([x[:, :, :1], prompts, x[:, :, 1:]], dim=2)
            x = self._layer("vision", number, x.flatten(0, 1))
            x = x.unflatten(0, (videos, count))
            x = torch.cat([x[:, :, :1], x[:, :, 1 + prompts.shape[2] :]], dim=2)
        if self.split < len(vision.encoder.layers):
            x = self._joint(x + self._buffers["frame_positions"][:, None])
        x = self.clip.visual_projection(vision.post_layernorm(x[:, :, 0]))
        x = normalize(x, dim=-1).mean(1)
        return normalize(x, dim=-1) if self.renormalize else x

    def _frame_prompts(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """The prompts `[B, F, P, D]` of a layer that sees each frame by itself."""
        videos, count = x.shape[:2]
        found = [x[:, :, :0]]
        for name in ("video_prompts", "position_prompts"):
            row = self._row(name, number, self.first)
            if row is not None:
                # As the tokens of a frame do before the first layer.
                row = row if number else self.clip.vision_model.pre_layrnorm(row)
                found.append(row.expand(videos, count, -1, -1))
        if self.context is not None and number >= self.first:
            made = self.context["fc"](self.context["lstm"](x[:, :, 0])[0])
            found.append(made.unflatten(-1, (-1, x.shape[-1])))
        return torch.cat(found, dim=2)

    def _joint(self, x: torch.Tensor) -> torch.Tensor:
        """The layers in which all frames `[B, F, S, D]` attend together."""
        videos, count, tokens, width = x.shape
        classes, rest = x[:, :, 0], x[:, :, 1:].flatten(1, 2)
        for number in range(self.split, len(self._layers("vision"))):
            row = self._row("joint_prompts", number, max(self.first, self.split))
            row = rest[0, :0] if row is None else row
            row = row if number else self.clip.vision_model.pre_layrnorm(row)
            joined = torch.cat([classes, row.expand(videos, -1, -1), rest], dim=1)
            joined = self._layer("vision", number, joined)
            classes, rest = joined[:, :count], joined[:, count + len(row) :]
        rest = rest.reshape(videos, count, tokens - 1, width)
        return torch.cat([classes[:, :, None], rest], dim=2)


def _key(name: str) -> str:
    """The name of a buffer, which may hold no dot."""
    return name.replace(".", "/")


def _context(added: dict[str, torch.Tensor]) -> torch.nn.ModuleDict | None:
    """The LSTM and the layer behind it that make prompts from the frames."""
    start = "context."
    own = {k[len(start) :]: x for k, x in added.items() if k.startswith(start)}
    if not own:
        return None
    if "lstm.weight_hh_l0" not in own:
        raise ValueError("prompts made in a way that this file does not know")
    lstm = torch.nn.LSTM(
        *(own["lstm.weight_ih_l0"].shape[1], own["lstm.weight_hh_l0"].shape[1]),
        batch_first=True,
        bidirectional="lstm.weight_hh_l0_reverse" in own,
    )
    fc = torch.nn.Linear(own["fc.weight"].shape[1], own["fc.weight"].shape[0])
    context = torch.nn.ModuleDict({"lstm": lstm, "fc": fc})
    context.load_state_dict(own)
    return context


def token_ids(clip: CLIPModel, folder: str, texts: list[str]) -> torch.Tensor:
    """The ids `[B, N]` of texts, from the tokenizer in CLIP's folder, padded with 0."""
    tokenizer, config = AutoTokenizer.from_pretrained(folder), clip.config.text_config
    bare = tokenizer.num_special_tokens_to_add() == 0
    most = config.max_position_embeddings - 2 * bare
    rows = tokenizer(texts, truncation=True, max_length=most).input_ids
    if bare:
        # Some tokenizers leave the first and the last token to their caller.
        rows = [[config.bos_token_id, *row, config.eos_token_id] for row in rows]
    rows = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def main() -> None:
    """Prints how similar texts and videos are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="as convert --to=torch writes it")
    parser.add_argument("texts", nargs="+", help="one or more texts")
    parser.add_argument("--frames", help=".npy, uint8 [videos, frames, H, W, 3]")
    flags = parser.parse_args()
    for name in ("config.json", "model.safetensors"):
        if not (Path(flags.folder) / name).is_file():
            sys.exit(f"{flags.folder} has no {name}; pass what convert --to=torch made")
    if flags.frames is not None and not Path(flags.frames).is_file():
        sys.exit(f"--frames={flags.frames} does not exist; pass a .npy of frames")
    model = TunedClip(flags.folder)
    texts = model.encode_texts(token_ids(model.clip, flags.folder, flags.texts))
    if flags.frames is None:
        side = model.clip.config.vision_config.image_size
        print("without --frames, one video of noise is compared", file=sys.stderr)
        rng = np.random.default_rng(0)
        frames = rng.integers(0, 256, (1, model.num_frames, side, side, 3), np.uint8)
    else:
        frames = np.load(flags.frames)
    similarity = texts @ model.encode_videos(torch.from_numpy(frames)).T
    for text, row in zip(flags.texts, similarity.tolist(), strict=True):
        print(text, *(f"{value:.4f}" for value in row), sep="\t")


if __name__ == "__main__":
    main()
