"""Adds LoRA's changes to a backbone's weights, so that any code of it runs them."""

from collections.abc import Mapping

import numpy as np

from vop_jax.weights.tensors import Tensor

_MODELS = {"vision": "vision_model", "text": "text_model"}


def merge_lora(
    clip: Mapping[str, Tensor],
    added: Mapping[str, Tensor],
    parts: str,
    first_layer: int = 1,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights with LoRA's changes in them, and what else was added.

    A changed weight is W + B A, summed in float64 and rounded once.

    Args:
        clip: a backbone's tensors under Hugging Face's names.
        added: what was added to it, under the names of `tuned.safetensors`.
        parts: the changed projections, one of `config.LORA_PARTS`.
        first_layer: the first changed layer, counted from 1.
    """
    merged = dict(clip)
    for tower, model in _MODELS.items():
        if f"lora.{tower}.A" not in added:
            continue
        down, up = (added[f"lora.{tower}.{x}"].read() for x in "AB")
        for layer, (a, b) in enumerate(zip(down, up, strict=True), first_layer - 1):
            for part, rows in zip(parts, np.split(b, len(parts)), strict=True):
                name = f"{model}.encoder.layers.{layer}.self_attn.{part}_proj.weight"
                merged[name] = _changed(clip[name], rows, a)
    rest = {k: x for k, x in added.items() if not k.startswith("lora.")}
    return merged, rest


def _changed(weight: Tensor, up: np.ndarray, down: np.ndarray) -> Tensor:
    def read() -> np.ndarray:
        change = up.astype(np.float64) @ down.astype(np.float64)
        return (weight.read().astype(np.float64) + change).astype(np.float32)

    return Tensor(weight.shape, read)
