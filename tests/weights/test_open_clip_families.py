"""open_clip's files with towers of timm, converted: the features of the live models."""

import dataclasses
import json

import numpy as np
import peers
import pytest
import safetensors.numpy
import small_tokenizers
import torch
from small_families import EVA02, PE_CORE, SIGLIP

from data_pipelines.console.errors import UserError
from vop_jax.api import load
from vop_jax.model.clip.sizes import Rotary
from vop_jax.weights.clip_export import convert
from vop_jax.weights.config_file import load_size
from vop_jax.weights.special_tokens import tokenizer_settings
from vop_jax.weights.tokenizer import CLEANING

pytestmark = pytest.mark.slow
with peers.without_torchvision():
    pytest.importorskip("timm", reason="is in requirements-peers.txt")
    pytest.importorskip("open_clip", reason="is in requirements-peers.txt")
    from peer_towers import text_model, timm_model


def changed(size, **vision):
    return dataclasses.replace(size, vision=dataclasses.replace(size.vision, **vision))


HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"}
TOWER = {"context_length": 12, "vocab_size": 60}
LAST = {
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
    "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
    "tokenizer_kwargs": {"clean": "canonicalize"},
}
TANH = {"act_kwargs": {"approximate": "tanh"}}
# timm refuses images of patches that are not complete.
_SIGLIP = dataclasses.replace(SIGLIP, image_size=24)
# Description, timm's name, `text_cfg`, `preprocess_cfg`.
MODELS = {
    "siglip": (
        dataclasses.replace(
            changed(_SIGLIP, activation="gelu"),
            text=dataclasses.replace(SIGLIP.text, activation="gelu"),
        ),
        *("vit_base_patch16_siglip_224", LAST, HALF),
    ),
    "siglip2, exact": (
        changed(_SIGLIP, activation="gelu"),
        *("vit_base_patch16_siglip_224", LAST | TANH, HALF),
    ),
    "siglip2, tanh": (
        _SIGLIP,
        *("vit_so400m_patch16_siglip_256", LAST | TANH, HALF),
    ),
    "pe_core": (
        changed(PE_CORE, width=64, heads=4, pooling_heads=8, projection="biased"),
        *("vit_pe_core_base_patch16_224", {}, HALF | {"interpolation": "bilinear"}),
    ),
    "pe_core_g": (
        changed(
            PE_CORE,
            **{"width": 64, "heads": 4, "pooling_heads": 8, "projection": "biased"},
            class_token=False,
            rotary=Rotary(order="xy"),
        ),
        *("vit_pe_core_gigantic_patch14_448", {}, HALF | {"interpolation": "bilinear"}),
    ),
    "eva02": (
        changed(EVA02, rotary=Rotary(grid=16)),
        *("eva02_base_patch16_clip_224", {}, {}),
    ),
}


@pytest.fixture(params=MODELS)
def published(request, tmp_path):
    """A folder as open_clip publishes it, its description and the towers."""
    size, name, text, frames = MODELS[request.param]
    towers = peers.shaken(timm_model(size)), peers.shaken(text_model(size))
    state = {"logit_scale": np.float32(2.5)}
    if size.loss == "sigmoid":
        state["logit_bias"] = np.float32(-10)
    for start, tower in zip(("visual.trunk.", "text."), towers, strict=True):
        for key, value in tower.state_dict().items():
            state[start + key] = np.ascontiguousarray(value.numpy())
    folder = tmp_path / "theirs"
    folder.mkdir()
    arrays = {key: np.asarray(value) for key, value in state.items()}
    safetensors.numpy.save_file(arrays, folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": {
            "embed_dim": size.embedding,
            "custom_text": True,
            "vision_cfg": {"image_size": size.image_size, "timm_model_name": name},
            "text_cfg": {"heads": size.text.heads, **TOWER, **text},
        },
        "preprocess_cfg": {"size": [size.image_size] * 2, **frames},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    small_tokenizers.WRITERS[size.family](folder, size.vocabulary)
    return folder, size, towers


@torch.no_grad()
def test_features_are_theirs(published, tmp_path):
    folder, size, (vision, text) = published
    heads = size.vision.heads, size.text.heads
    convert(folder, tmp_path / "ours", "huggingface", "", heads)
    model = load(tmp_path / "ours")
    found = model.backbone.size
    assert found.vision == size.vision or found.vision.pooling == size.vision.pooling
    assert found.text == size.text
    assert found.loss == size.loss
    rng = np.random.default_rng(0)
    side = size.image_size
    frames = rng.integers(0, 256, (2, 3, side, side, 3), np.uint8)
    images = vision(peers.pixels(frames, found.frames))
    images = torch.nn.functional.normalize(images, dim=-1).numpy()
    videos = images.reshape(2, 3, -1).mean(1)
    np.testing.assert_allclose(model.encode_videos(frames), videos, atol=1e-5)
    ids = model.tokenizer(["a dog", "two dogs are running"])
    assert ids.shape[1] == size.context_length
    texts = torch.nn.functional.normalize(text(torch.tensor(ids).long()), dim=-1)
    np.testing.assert_allclose(model.encode_texts(ids), texts.numpy(), atol=1e-5)


def test_frames_and_texts_are_as_stated(published, tmp_path):
    folder, size, _ = published
    heads = size.vision.heads, size.text.heads
    convert(folder, tmp_path / "ours", "huggingface", "", heads)
    found = load_size(tmp_path / "ours")
    stated = json.loads((folder / "open_clip_config.json").read_text())
    frames = stated["preprocess_cfg"]
    assert found.frames.resize == frames.get("resize_mode", "crop")
    assert found.frames.filter == frames.get("interpolation", "bicubic")
    if "mean" in frames:
        assert list(found.frames.mean) == frames["mean"]
    cleaned = CLEANING in tokenizer_settings(tmp_path / "ours")
    assert cleaned == (size.loss == "sigmoid")
    # Control: without its config the activation of a SigLIP is asked for.
    (folder / "open_clip_config.json").unlink()
    if size.loss == "sigmoid":
        with pytest.raises(UserError, match="does not say its activation"):
            convert(folder, tmp_path / "again", "huggingface", "", heads)
    else:
        convert(folder, tmp_path / "again", "huggingface", "", heads)
        assert load_size(tmp_path / "again").vision == found.vision


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"timm_model_name": "vit_base_patch16_224"}, "it must be a SigLIP, a PE-Core"),
        ({"timm_model_name": 3}, "timm_model_name is 3"),
        ({"image_size": 80}, "an image of 80 pixels has 100 patches, but the file 9"),
        ({"timm_pool": "avg"}, "timm_pool is .avg."),
    ],
)
def test_a_config_of_another_model_is_one_line(published, tmp_path, change, says):
    folder, size, _ = published
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"] |= change
    path.write_text(json.dumps(config))
    heads = size.vision.heads, size.text.heads
    with pytest.raises(UserError, match=says) as error:
        convert(folder, tmp_path / "ours", "huggingface", "", heads)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours").exists()
