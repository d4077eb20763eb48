"""A small CLIP of random weights, as a folder or a file of somebody's."""

import json

import jax
import numpy as np
import safetensors.numpy
import torch

from vop_jax.model.clip.sizes import ClipSize, TextSize, VisionSize
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import abstract_variables
from vop_jax.weights.backbone import save_backbone
from vop_jax.weights.clip_names import to_openai
from vop_jax.weights.tensors import tensor_of

SMALL = ClipSize(
    vision=VisionSize(128, 2, 2, 64),
    text=TextSize(64, 2, 1, 64),
    image_size=32,
    patch_size=16,
    embedding=24,
)


def random_params(size):
    rng = np.random.default_rng(0)
    shapes = abstract_variables(size, PromptConfig(num_frames=2))["params"]

    def draw(path, leaf):
        middle = 1.0 if path[-1].key == "scale" else 0.0
        return rng.normal(middle, 0.1, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def folder_of(size, path):
    """A Hugging Face folder of random weights."""
    path.mkdir()
    save_backbone(path, size, random_params(size))
    return path


def named(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def copied(folder, path, rename=lambda name: name, **config):
    """A copy of a folder, with other names of tensors or other fields of a tower."""
    path.mkdir()
    tensors = {rename(name): value for name, value in named(folder).items()}
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())
    for name, value in config.items():
        values["text_config"][name] = value
    (path / "config.json").write_text(json.dumps(values))
    return path


def openai_file(folder, path, wrap=lambda named: named):
    """The weights of a folder in PyTorch's file under OpenAI's names."""
    tensors = {name: tensor_of(value) for name, value in named(folder).items()}
    theirs = {
        name: torch.tensor(np.ascontiguousarray(x.read()))
        for name, x in to_openai(tensors).items()
    }
    torch.save(wrap(theirs), path)
    return path
