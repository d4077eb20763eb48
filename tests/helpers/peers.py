"""Other people's models, and their parameters under our names.

timm and open_clip come from `requirements-peers.txt`, without what they depend on.
"""

import contextlib
import importlib.machinery
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import torch

# Before anything stands in for torchvision: transformers remembers what is installed.
from transformers import SiglipConfig, SiglipModel  # noqa: F401

from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.tree_paths import from_paths


class _Any(type):
    """The type of a class that has every name, each another such class."""

    def __getattr__(cls, name):
        return _any(name)


def _any(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Any(name, (), {})


class _StandIns:
    """Finds empty modules in the place of torchvision's."""

    def find_spec(self, name, path=None, target=None):
        del path, target
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = _any
        return module

    def exec_module(self, module):
        """Leaves the module empty."""


@contextlib.contextmanager
def without_torchvision():
    """While timm and open_clip are imported, which want it for images and its boxes.

    Their towers do not use it, and its compiled operators fit one build of PyTorch.
    """
    finder = _StandIns()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [x for x in sys.modules if x.partition(".")[0] == "torchvision"]:
            del sys.modules[name]


def shaken(model, seed=0):
    """A model with every parameter random, norms' scales around 1; for evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = 0.2 * torch.randn(value.shape, generator=generator)
            norm = "norm" in name or ".ln_" in name or name.startswith("ln_")
            middle = 1.0 if norm and name.endswith("weight") else 0.0
            value.copy_(middle + noise)
    return model.eval()


def pixels(frames, recipe):
    """Frames `[B, F, H, W, 3]` as a batch of images, normalised; and their counts."""
    x = frames.reshape(-1, *frames.shape[2:]).astype(np.float32) / 255
    x = (x - np.array(recipe.mean, np.float32)) / np.array(recipe.deviation, np.float32)
    return torch.tensor(x.transpose(0, 3, 1, 2).copy())


def features(size, towers):
    """Our features of some towers, not normalised, and what they are of."""
    rng = np.random.default_rng(0)
    side = size.image_size
    frames = rng.integers(0, 256, (2, 3, side, side, 3), np.uint8)
    ids = rng.integers(3, 40, (4, size.context_length)).astype(np.int32)
    ids[np.arange(4), [3, 5, 7, 9]] = size.eos_id
    ids[0, 4:] = 0
    model = DualEncoder(size, PromptConfig(num_frames=3))
    params = abstract_variables(size, PromptConfig(num_frames=3))["params"]
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), params)
    for name, tree in towers.items():
        assert jax.tree.map(jnp.shape, params[name]) == jax.tree.map(jnp.shape, tree)
        params[name] = tree
    encode = {
        "vision": lambda m: m.vision(frames).reshape(6, -1),
        "text": lambda m: m.text(ids),
    }
    found = {k: model.apply({"params": params}, method=encode[k]) for k in towers}
    return found, frames, ids


def same(ours, theirs):
    theirs = theirs.detach().numpy()
    assert np.std(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


class _Named:
    """A state dictionary, read part by part into our layouts."""

    def __init__(self, model):
        self.left = {k: x.detach().numpy() for k, x in model.state_dict().items()}
        self.found = {}

    def take(self, name):
        return self.left.pop(name)

    def norm(self, ours, theirs):
        self.found[f"{ours}/scale"] = self.take(f"{theirs}.weight")
        self.found[f"{ours}/bias"] = self.take(f"{theirs}.bias")

    def linear(self, ours, theirs, kernel=None, bias=None):
        """A linear layer; its kernel `[in, out]`, reshaped, and its bias, if any."""
        weight = self.take(f"{theirs}.weight").T
        self.put(ours, weight, self.left.pop(f"{theirs}.bias", None), kernel, bias)

    def put(self, ours, weight, offset, kernel=None, bias=None):
        self.found[f"{ours}/kernel"] = weight.reshape(kernel or weight.shape)
        if offset is not None:
            self.found[f"{ours}/bias"] = offset.reshape(bias or offset.shape)

    def heads(self, ours, theirs, width, heads):
        """`ours` of one of the three projections to heads."""
        head = width // heads
        self.linear(ours, theirs, (width, heads, head), (heads, head))

    def fused(self, ours, weight, offset, width, heads, names):
        """Projections whose rows stand one below the other."""
        head = width // heads
        weights = np.split(self.take(weight), len(names))
        offsets = np.split(self.take(offset), len(names))
        for name, one, other in zip(names, weights, offsets, strict=True):
            shape = (width, heads, head), (heads, head)
            self.put(f"{ours}/{name}", one.T, other, *shape)

    def out(self, ours, theirs, width, heads):
        self.linear(ours, theirs, (heads, width // heads, width))

    def stacked(self, tower, layers):
        """The layers that were read as `i/...`, stacked as ours are."""
        own = {k: v for k, v in self.found.items() if k[0].isdigit()}
        kept = {k: v for k, v in self.found.items() if k not in own}
        for path in [k.split("/", 1)[1] for k in own if k.startswith("0/")]:
            rows = [own.pop(f"{i}/{path}") for i in range(layers)]
            kept[f"layers/{path}"] = np.stack(rows[:-1])
            kept[f"last_layer/{path}"] = rows[-1]
        assert not own, own.keys()
        assert not self.left, self.left.keys()
        return from_paths({f"{tower}/{k}": v for k, v in kept.items()})[tower]


def timm_vision(model, size):
    """Timm's `Eva` or `VisionTransformer`, with its head as the projection."""
    vision, named = size.vision, _Named(model)
    width, heads = vision.width, vision.heads
    patches = named.take("patch_embed.proj.weight").transpose(2, 3, 1, 0)
    named.found["patch_embedding"] = patches
    if vision.patch_bias:
        named.found["patch_bias"] = named.take("patch_embed.proj.bias")
    if vision.class_token:
        named.found["class_embedding"] = named.take("cls_token")[0, 0]
    named.found["position_embedding"] = named.take("pos_embed")[0]
    if vision.pre_norm:
        named.norm("ln_pre", "norm_pre")
    named.norm("ln_post", "norm")
    for i in range(vision.layers):
        theirs, three = f"blocks.{i}", ("query", "key", "value")
        named.norm(f"{i}/ln_1", f"{theirs}.norm1")
        named.norm(f"{i}/ln_2", f"{theirs}.norm2")
        attention = f"{i}/attention"
        if f"{theirs}.attn.qkv.weight" in named.left:
            parts = f"{theirs}.attn.qkv.weight", f"{theirs}.attn.qkv.bias"
            named.fused(attention, *parts, width, heads, three)
        else:
            for name in three:
                part = f"{theirs}.attn.{name[0]}_proj"
                named.heads(f"{attention}/{name}", part, width, heads)
        if vision.attention_norm:
            named.norm(f"{attention}/ln", f"{theirs}.attn.norm")
        named.out(f"{attention}/out", f"{theirs}.attn.proj", width, heads)
        gated = {"gate": "fc1_g", "up": "fc1_x", "fc_2": "fc2"}
        plain = {"fc_1": "fc1", "fc_2": "fc2"}
        for ours, part in (gated if vision.gated else plain).items():
            named.linear(f"{i}/mlp/{ours}", f"{theirs}.mlp.{part}")
        if vision.gated:
            named.norm(f"{i}/mlp/ln", f"{theirs}.mlp.norm")
    if vision.pooling is not None:
        pool, own = "attn_pool", vision.pooling.heads
        named.found["pooling/probe"] = named.take(f"{pool}.latent")[0, 0]
        named.heads("pooling/attention/query", f"{pool}.q", width, own)
        parts = f"{pool}.kv.weight", f"{pool}.kv.bias"
        named.fused("pooling/attention", *parts, width, own, ("key", "value"))
        named.out("pooling/attention/out", f"{pool}.proj", width, own)
        named.norm("pooling/ln", f"{pool}.norm")
        named.linear("pooling/mlp/fc_1", f"{pool}.mlp.fc1")
        named.linear("pooling/mlp/fc_2", f"{pool}.mlp.fc2")
    if vision.projection == "biased":
        named.found["projection"] = named.take("head.weight").T
        named.found["projection_bias"] = named.take("head.bias")
    return named.stacked("vision", vision.layers)


def open_clip_text(model, size):
    """open_clip's `TextTransformer`."""
    text, named = size.text, _Named(model)
    width, heads = text.width, text.heads
    named.found["token_embedding"] = named.take("token_embedding.weight")
    named.found["position_embedding"] = named.take("positional_embedding")
    named.norm("ln_final", "ln_final")
    for i in range(text.layers):
        theirs = f"transformer.resblocks.{i}"
        named.norm(f"{i}/ln_1", f"{theirs}.ln_1")
        named.norm(f"{i}/ln_2", f"{theirs}.ln_2")
        parts = f"{theirs}.attn.in_proj_weight", f"{theirs}.attn.in_proj_bias"
        three = ("query", "key", "value")
        named.fused(f"{i}/attention", *parts, width, heads, three)
        named.out(f"{i}/attention/out", f"{theirs}.attn.out_proj", width, heads)
        named.linear(f"{i}/mlp/fc_1", f"{theirs}.mlp.c_fc")
        named.linear(f"{i}/mlp/fc_2", f"{theirs}.mlp.c_proj")
    if text.projection == "biased":
        named.found["projection"] = named.take("text_projection.weight").T
        named.found["projection_bias"] = named.take("text_projection.bias")
    else:
        named.found["projection"] = named.take("text_projection")
    return named.stacked("text", text.layers)


def transformers_siglip(model, size):
    """Both towers of transformers' `SiglipModel`."""
    towers = {}
    for tower in ("vision", "text"):
        named, own = _Named(model), size.tower(tower)
        start = f"{tower}_model."
        named.left = {
            name.removeprefix(start): value
            for name, value in named.left.items()
            if name.startswith(start)
        }
        width, heads = own.width, own.heads
        for i in range(own.layers):
            theirs = f"encoder.layers.{i}"
            for name in ("query", "key", "value"):
                part = f"{theirs}.self_attn.{name[0]}_proj"
                named.heads(f"{i}/attention/{name}", part, width, heads)
            part = f"{theirs}.self_attn.out_proj"
            named.out(f"{i}/attention/out", part, width, heads)
            for n in (1, 2):
                named.norm(f"{i}/ln_{n}", f"{theirs}.layer_norm{n}")
                named.linear(f"{i}/mlp/fc_{n}", f"{theirs}.mlp.fc{n}")
        position = "embeddings.position_embedding.weight"
        named.found["position_embedding"] = named.take(position)
        if tower == "text":
            token = "embeddings.token_embedding.weight"
            named.found["token_embedding"] = named.take(token)
            named.norm("ln_final", "final_layer_norm")
            named.found["projection"] = named.take("head.weight").T
            named.found["projection_bias"] = named.take("head.bias")
        else:
            patch = "embeddings.patch_embedding"
            kernel = named.take(f"{patch}.weight").transpose(2, 3, 1, 0)
            named.found["patch_embedding"] = kernel
            named.found["patch_bias"] = named.take(f"{patch}.bias")
            named.norm("ln_post", "post_layernorm")
            named.found["pooling/probe"] = named.take("head.probe")[0, 0]
            parts = "head.attention.in_proj_weight", "head.attention.in_proj_bias"
            three = ("query", "key", "value")
            named.fused("pooling/attention", *parts, width, heads, three)
            out = "head.attention.out_proj"
            named.out("pooling/attention/out", out, width, heads)
            named.norm("pooling/ln", "head.layernorm")
            named.linear("pooling/mlp/fc_1", "head.mlp.fc1")
            named.linear("pooling/mlp/fc_2", "head.mlp.fc2")
        towers[tower] = named.stacked(tower, own.layers)
    return towers
