"""The smallest published sizes of families, as their own libraries write them.

The weights are random; sizes, names, heads and epsilons are those of the published
models. The folder is converted and loaded as a downloaded one would be.
"""

import dataclasses
import json
from typing import NamedTuple

import jax
import numpy as np
import peers
import pytest
import safetensors.torch
import small_tokenizers
import torch
from tiers import by_hand

from vop_jax.api import load
from vop_jax.model.clip.families import SIZES
from vop_jax.weights.clip_export import convert

pytestmark = pytest.mark.slow
transformers = pytest.importorskip("transformers")
with peers.without_torchvision():
    pytest.importorskip("timm", reason="is in requirements-peers.txt")
    open_clip = pytest.importorskip("open_clip", reason="is in requirements-peers.txt")

HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"}
BILINEAR = HALF | {"interpolation": "bilinear"}
# Size -> open_clip's name and its `preprocess_cfg`.
OPEN_CLIP = {
    "laion_b32": ("ViT-B-32", {}),
    "siglip_b16": ("ViT-B-16-SigLIP", HALF),
    "siglip2_b32_256": ("ViT-B-32-SigLIP2-256", HALF),
    "pe_core_t16_384": ("PE-Core-T-16-384", BILINEAR),
    "pe_core_s16_384": ("PE-Core-S-16-384", BILINEAR),
    "eva02_b16": ("EVA02-B-16", {}),
}
# What open_clip's towers have other than the model that a size describes.
EXACT, BIASED = {"activation": "gelu"}, {"projection": "biased"}
CHANGES = {
    "siglip_b16": {"vision": EXACT, "text": EXACT},
    "pe_core_t16_384": {"vision": BIASED},
    "pe_core_s16_384": {"vision": BIASED},
}
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
SMALL |= {"hidden_act": "gelu"}
WORLD = {"vocab_size": 901_629, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
# Size -> transformers' class and what its default configuration lacks.
TRANSFORMERS = {
    "vit_b32": (
        "CLIP",
        {"text_config": {"bos_token_id": 49406, "eos_token_id": 49407}},
    ),
    "siglip_b16": ("Siglip", {}),
    "metaclip2_s16": (
        "MetaClip2",
        {
            "text_config": SMALL | WORLD,
            "vision_config": SMALL | {"num_hidden_layers": 12, "patch_size": 16},
            "projection_dim": 384,
        },
    ),
}
# What a folder that is no CLIP's needs; captions are given as ids.
TOKENIZERS = {
    "siglip": lambda folder: small_tokenizers.WRITERS["siglip"](folder, 60),
    "siglip2": lambda folder: small_tokenizers.siglip2(300).save_pretrained(folder),
    "metaclip_2": lambda folder: small_tokenizers.xlm_v(300).save_pretrained(folder),
}


class Features(NamedTuple):
    """What a live model makes of a frame and three captions."""

    frame: np.ndarray
    video: np.ndarray
    ids: np.ndarray
    texts: np.ndarray


def stirred(model):
    """A model whose parameters are all away from their initial values."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=generator))
    return model.eval()


def inputs(size):
    """A frame `[1, 1, H, W, 3]` and ids of three captions, padded with zeros."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (1, 1, size.image_size, size.image_size, 3), np.uint8)
    ids = np.zeros((3, size.context_length), np.int32)
    for row, length in zip(ids, (3, 9, size.context_length), strict=True):
        row[:length] = rng.integers(3, 30_000, length)
        row[length - 1] = size.eos_id
        if size.text.reads == "end":
            row[0] = size.eos_id - 1
    return frame, ids


@torch.no_grad()
def features(size, images, texts):
    frame, ids = inputs(size)
    video = images(peers.pixels(frame, size.frames))
    found = (video, texts(torch.tensor(ids).long()))
    video, texts = (torch.nn.functional.normalize(x, dim=-1).numpy() for x in found)
    return Features(frame, video, ids, texts)


def of_open_clip(name, folder):
    theirs, frames = OPEN_CLIP[name]
    model = stirred(open_clip.create_model(theirs))
    found = features(SIZES[name], model.encode_image, model.encode_text)
    safetensors.torch.save_file(
        {k: x.contiguous() for k, x in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    config = {
        "model_cfg": open_clip.get_model_config(theirs),
        "preprocess_cfg": {"size": [SIZES[name].image_size] * 2, **frames},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return found


def of_transformers(name, folder):
    kind, fields = TRANSFORMERS[name]
    config = getattr(transformers, f"{kind}Config")(**fields)
    model = stirred(getattr(transformers, f"{kind}Model")(config))
    found = features(
        SIZES[name],
        lambda pixels: model.get_image_features(pixels).pooler_output,
        lambda ids: model.get_text_features(input_ids=ids).pooler_output,
    )
    model.save_pretrained(folder)
    return found


# The same towers as of others here, in another library's file or another size.
AGAIN = [
    (of_open_clip, "siglip_b16"),
    (of_open_clip, "pe_core_t16_384"),
    (of_open_clip, "laion_b32"),
    (of_transformers, "siglip_b16"),
]
CASES = [(of_open_clip, x) for x in OPEN_CLIP]
CASES += [(of_transformers, x) for x in TRANSFORMERS]


@pytest.mark.parametrize(
    ("library", "name"),
    [by_hand(*x) if x in AGAIN else x for x in CASES],
    ids=[f"{f.__name__}, {x}" for f, x in CASES],
)
def test_features_are_theirs(library, name, tmp_path, monkeypatch):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    # Their model is no longer in memory when it is read.
    expected = library(name, theirs)
    wanted = SIZES[name]
    if wanted.family in TOKENIZERS:
        TOKENIZERS[wanted.family](theirs)
    read = theirs
    if library is of_open_clip:
        read = tmp_path / "ours"
        convert(theirs, read, "huggingface")
        wanted = dataclasses.replace(
            wanted,
            **{
                tower: dataclasses.replace(getattr(wanted, tower), **fields)
                for tower, fields in CHANGES.get(name, {}).items()
            },
        )
    # On one device: all eight would hold a copy.
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    model = load(read)
    size = model.backbone.size
    assert size.vision.pooling == wanted.vision.pooling
    # 0 means the same as the tower's own width.
    pooling = {"pooling_mlp": wanted.vision.pooling_mlp}
    assert dataclasses.replace(size.vision, **pooling) == wanted.vision
    assert size.text == wanted.text
    assert size.frames == wanted.frames
    video = model.encode_videos(expected.frame)
    np.testing.assert_allclose(video, expected.video, atol=1e-5)
    texts = model.encode_texts(expected.ids)
    np.testing.assert_allclose(texts, expected.texts, atol=1e-5)
    # Captions are told apart, so equal features mean something.
    assert (expected.texts @ expected.texts.T)[0, 1] < 0.99
