"""LoRA in the weights of a converted model, which any code of CLIP then runs."""

import shutil

import jax
import numpy as np
import pytest
import torch
from tiers import slow_except

from vop_jax.api import load
from vop_jax.model.clip.sizes import PIXEL_DEVIATION, PIXEL_MEAN
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import added_shapes
from vop_jax.weights.backbone import load_backbone, save_backbone
from vop_jax.weights.clip_export import convert
from vop_jax.weights.locate import BACKBONE
from vop_jax.weights.tuned import read_tuned, save_tuned
from vop_jax.weights.tuned_metadata import metadata_of

FRAMES = 3
CONFIGS = {
    "lora": PromptConfig(lora_rank=4, num_frames=FRAMES),
    "some layers and parts": PromptConfig(
        lora_rank=3, lora_parts="qv", first_layer=2, last_layer=3, num_frames=FRAMES
    ),
    "with prompts": PromptConfig(
        lora_rank=2, lora_parts="k", text_length=3, video_length=2, num_frames=FRAMES
    ),
}


def tuned_folder(folder, config):
    """The demo's backbone with random additions."""
    shutil.copytree(BACKBONE, folder)
    demo = load_backbone(folder)
    # Written again, since the demo's scale is a vector, which transformers refuses.
    save_backbone(folder, demo.size, demo.params)
    backbone = load_backbone(folder)
    random = np.random.default_rng(0)
    leaves = {
        path: random.normal(0, 0.2, shape).astype(np.float32)
        for path, shape in added_shapes(backbone.size, config).items()
    }
    layers = backbone.size.vision.layers
    metadata = metadata_of("vop_lora", config, layers, backbone.sha256)
    save_tuned(folder / "tuned.safetensors", leaves, backbone.size, metadata)
    return folder


def inputs(model):
    random = np.random.default_rng(1)
    size = model.image_size
    frames = random.integers(0, 256, (2, FRAMES, size, size, 3), np.uint8)
    return frames, ["a red circle", "a large blue square moves to the left"]


@pytest.mark.parametrize("name", slow_except(CONFIGS, "lora"))
def test_merged_weights_give_the_same_features(tmp_path, name):
    config = CONFIGS[name]
    before = load(tuned_folder(tmp_path / "tuned", config))
    convert(tmp_path / "tuned", tmp_path / "merged", "huggingface")
    after = load(tmp_path / "merged")
    frames, texts = inputs(before)
    for ours, theirs in (
        (after.encode_videos(frames), before.encode_videos(frames)),
        (after.encode_texts(texts), before.encode_texts(texts)),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    # LoRA has a say, and nothing of it is left.
    bare = load(BACKBONE)
    assert np.abs(bare.encode_texts(texts) - before.encode_texts(texts)).max() > 1e-2
    rest = tmp_path / "merged" / "tuned.safetensors"
    assert rest.exists() == bool(config.text_length)
    if rest.exists():
        named, metadata = read_tuned(rest)
        assert set(named) == {"text_prompts", "video_prompts"}
        assert "lora_parts" not in metadata
        assert "lora_rank" not in metadata
        assert metadata["backbone_sha256"] == after.backbone.sha256


def test_transformers_runs_what_was_merged(tmp_path):
    import transformers

    before = load(tuned_folder(tmp_path / "tuned", CONFIGS["lora"]))
    convert(tmp_path / "tuned", tmp_path / "merged", "huggingface")
    model = transformers.CLIPModel.from_pretrained(tmp_path / "merged")
    frames, texts = inputs(before)
    pixels = (frames / 255 - np.array(PIXEL_MEAN)) / np.array(PIXEL_DEVIATION)
    flat = torch.from_numpy(pixels.reshape(-1, *pixels.shape[2:]).astype(np.float32))
    ids = torch.from_numpy(np.asarray(before.tokenizer(texts), np.int64))
    with torch.no_grad():
        image = model.vision_model(flat.permute(0, 3, 1, 2)).pooler_output
        image = model.visual_projection(image)
        text = model.text_projection(model.text_model(ids).pooler_output)
    image, text = (torch.nn.functional.normalize(x, dim=-1) for x in (image, text))
    video = image.reshape(2, FRAMES, -1).mean(1)
    np.testing.assert_allclose(before.encode_videos(frames), video, atol=1e-5)
    np.testing.assert_allclose(before.encode_texts(texts), text, atol=1e-5)


@pytest.mark.slow
def test_the_start_is_the_frozen_model():
    """B is 0, so that LoRA changes nothing before it is trained."""
    from vop_jax.model.dual_encoder import DualEncoder

    backbone = load_backbone(BACKBONE)
    config = CONFIGS["lora"]
    model = DualEncoder(backbone.size, config)
    frames, _ = inputs(load(BACKBONE))
    ids = np.full((2, 4), backbone.size.eos_id)
    keys = {"params": jax.random.key(0), "prompts": jax.random.key(1)}
    made = jax.jit(model.init)(keys, frames, ids)["prompts"]
    assert np.abs(made["vision"]["lora"]["A"]).max() > 0
    plain = DualEncoder(backbone.size, PromptConfig(num_frames=FRAMES))
    run = jax.jit(lambda x: model.apply(x, frames, ids))
    without = jax.jit(lambda x: plain.apply(x, frames, ids))
    first = run({"params": backbone.params, "prompts": made})
    for ours, frozen in zip(first, without({"params": backbone.params}), strict=True):
        np.testing.assert_array_equal(ours, frozen)
