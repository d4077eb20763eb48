"""The backbone against Hugging Face's own CLIP, at random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.families import SIZES
from vop_jax.model.clip.sizes import (
    PIXEL_DEVIATION,
    PIXEL_MEAN,
    ClipSize,
    TextSize,
    VisionSize,
)
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder, normalize
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import abstract_variables
from vop_jax.weights import backbone, config_file

TINY = ClipSize(
    vision=VisionSize(32, 3, 2, 64),
    text=TextSize(48, 2, 3, 96, activation="gelu"),
    image_size=32,
    patch_size=8,
    vocabulary=100,
    context_length=20,
    embedding=24,
    eos_id=99,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny CLIP written by transformers."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("clip")
    config_file.save_size(path, TINY)
    config = json.loads((path / "config.json").read_text())
    torch.manual_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig.from_dict(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return path, model, torch


def inputs():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 2, 32, 32, 3), np.uint8)
    ids = np.zeros((4, 20), np.int32)
    for row, length in zip(ids, (3, 9, 14, 20), strict=True):
        row[:length] = [98, *rng.integers(1, 98, length - 2), 99]
    return frames, ids


@pytest.mark.parametrize("scan", [True, False])
def test_features_equal_torch(folder, scan):
    path, theirs, torch = folder
    loaded = backbone.load_backbone(path)
    assert loaded.size == TINY
    model = DualEncoder(loaded.size, compute=ComputeConfig(scan=scan))
    frames, ids = inputs()
    video, text, scale = jax.jit(model.apply)({"params": loaded.params}, frames, ids)
    pixels = (frames / 255.0 - np.array(PIXEL_MEAN)) / np.array(PIXEL_DEVIATION)
    pixels = np.moveaxis(pixels.reshape(-1, 32, 32, 3), -1, 1).astype(np.float32)
    with torch.no_grad():
        vision = theirs.vision_model(torch.tensor(pixels)).pooler_output
        expected = normalize(theirs.visual_projection(vision).numpy())
        language = theirs.text_model(torch.tensor(ids).long()).pooler_output
        expected_text = normalize(theirs.text_projection(language).numpy())
        expected_scale = theirs.logit_scale.item()
    expected = expected.reshape(3, 2, -1).mean(1)
    np.testing.assert_allclose(video, expected, atol=1e-5)
    np.testing.assert_allclose(text, expected_text, atol=1e-5)
    assert scale == pytest.approx(expected_scale)


def test_round_trip_is_exact(folder, tmp_path):
    path, _, _ = folder
    loaded = backbone.load_backbone(path)
    backbone.save_backbone(tmp_path, loaded.size, loaded.params)
    theirs = safetensors.numpy.load_file(path / backbone.WEIGHTS)
    ours = safetensors.numpy.load_file(tmp_path / backbone.WEIGHTS)
    assert sorted(theirs) == sorted(ours)
    for name, value in theirs.items():
        np.testing.assert_array_equal(value, ours[name], err_msg=name)
    assert backbone.load_size(tmp_path) == loaded.size


@pytest.mark.parametrize("change", ["missing", "left over", "shape"])
def test_a_file_that_does_not_fit_is_refused(folder, tmp_path, change):
    path, _, _ = folder
    named = safetensors.numpy.load_file(path / backbone.WEIGHTS)
    name = "visual_projection.weight"
    if change == "missing":
        del named[name]
    elif change == "left over":
        named["visual_projection.bias"] = np.zeros(3, np.float32)
    else:
        named[name] = named[name][:, :-1].copy()
    safetensors.numpy.save_file(named, tmp_path / backbone.WEIGHTS)
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    with pytest.raises(UserError, match="visual_projection"):
        backbone.load_backbone(tmp_path)


def test_damaged_and_missing_files_are_one_line(folder, tmp_path):
    path, _, _ = folder
    with pytest.raises(UserError, match=r"config\.json is missing"):
        backbone.load_backbone(tmp_path)
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    with pytest.raises(
        UserError, match=r"holds no weights: none of model\.safetensors"
    ):
        backbone.load_backbone(tmp_path)
    whole = (path / backbone.WEIGHTS).read_bytes()
    (tmp_path / backbone.WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        backbone.load_backbone(tmp_path)
    (tmp_path / "config.json").write_text('{"text_config": 3}')
    with pytest.raises(UserError, match="does not describe a CLIP"):
        backbone.load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("name", "count"), [("vit_b32", 151_277_313), ("vit_l14", 427_616_513)]
)
def test_published_sizes_have_the_published_number_of_parameters(name, count):
    shapes = abstract_variables(SIZES[name], PromptConfig(num_frames=1))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.slow
def test_bfloat16_stays_close():
    frames, ids = inputs()
    model = DualEncoder(TINY)
    params = jax.jit(model.init)(jax.random.key(0), frames, ids)
    exact = jax.jit(model.apply)(params, frames, ids)
    half = DualEncoder(TINY, compute=ComputeConfig(dtype="bfloat16"))
    rounded = jax.jit(half.apply)(params, frames, ids)
    for ours, theirs in zip(rounded, exact, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=0.02)
