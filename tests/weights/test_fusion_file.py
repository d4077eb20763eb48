"""Fusion in `tuned.safetensors` and in a converted model."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from small_families import FAMILIES

from data_pipelines.console.errors import UserError
from vop_jax.api import load
from vop_jax.model.clip.families import SIZES
from vop_jax.model.methods import METHODS
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import added_shapes
from vop_jax.weights.backbone import load_backbone
from vop_jax.weights.clip_export import convert
from vop_jax.weights.locate import BACKBONE
from vop_jax.weights.tuned import load_tuned, read_tuned, save_tuned
from vop_jax.weights.tuned_metadata import metadata_of

SIZE, FRAMES = SIZES["demo"], 3
LORA = {f"lora.{tower}.{x}" for tower in ("vision", "text") for x in "AB"}
FUSION = {f"fusion.{x}.{y}" for x in ("down", "up") for y in ("weight", "bias")}


def save(path, config, sha256=None, method="ivfusion", size=SIZE):
    random = np.random.default_rng(0)
    leaves = {
        path: random.normal(0, 0.3, shape).astype(np.float32)
        for path, shape in added_shapes(size, config).items()
    }
    metadata = metadata_of(
        method, config, size.vision.layers, sha256, renormalize_video=True
    )
    save_tuned(path, leaves, size, metadata)
    return leaves


def test_the_mechanism_is_read_off_the_tensors(tmp_path):
    path = tmp_path / "tuned.safetensors"
    config = PromptConfig(lora_rank=2, fusion_layers=3, fusion_width=5)
    leaves = save(path, config)
    with safetensors.safe_open(path, "numpy") as file:
        assert set(file.keys()) == LORA | FUSION
        metadata = json.loads(file.metadata()["vop_jax"])
    assert metadata["method"] == "ivfusion"
    assert metadata["renormalize_video"] is True
    assert [name for name in metadata if "fusion" in name] == ["fusion_layers"]
    found = load_tuned(path, SIZE, None)
    assert (found.prompts.fusion_layers, found.prompts.fusion_width) == (3, 5)
    assert found.leaves.keys() == leaves.keys()
    for name, value in leaves.items():
        np.testing.assert_array_equal(found.leaves[name], value)


def test_the_text_half_has_names_of_its_own(tmp_path):
    """It is no part of what a caption of a video passes through."""
    path = tmp_path / "tuned.safetensors"
    config = METHODS["discovla"].prompt_config(SIZE.vision.layers, FRAMES)
    save(path, config, method="discovla")
    named, metadata = read_tuned(path)
    text = {name.replace("fusion.", "fusion.text.") for name in FUSION}
    assert set(named) == LORA | FUSION | text
    assert metadata["method"] == "discovla"
    assert load_tuned(path, SIZE, None).prompts.fusion_text_layers == 2
    for few in (
        {k: x for k, x in named.items() if "fusion.text" not in k},
        {k: np.resize(x, (4, *x.shape[1:])) for k, x in named.items() if k in text},
    ):
        safetensors.numpy.save_file(
            few, path, metadata={"vop_jax": json.dumps(metadata)}
        )
        if few.keys() >= LORA:
            # Inference does not need it.
            assert load_tuned(path, SIZE, None).prompts.fusion_text_layers == 0
            continue
        with pytest.raises(UserError, match="last 4 layers, but this backbone's text"):
            load_tuned(path, SIZE, None)


@pytest.mark.parametrize(
    ("size", "split", "count", "says"),
    [
        (SIZE, 2, 3, "joint attention after layer 2"),
        (SIZE, 4, 5, "of the last 5 layers, .* this backbone has 4 layers"),
        (SIZES["vit_b32"], 12, 3, "shape .3, 5, 64., but this backbone's is .3, 5, 7"),
        (FAMILIES["siglip"], 4, 3, "no class token to attend"),
    ],
)
def test_another_backbone_is_refused(tmp_path, size, split, count, says):
    path = tmp_path / "tuned.safetensors"
    config = PromptConfig(fusion_layers=3, fusion_width=5)
    save(path, config)
    named, metadata = read_tuned(path)
    named = {k: np.resize(x, (count, *x.shape[1:])) for k, x in named.items()}
    text = json.dumps(metadata | {"split_layer": split})
    safetensors.numpy.save_file(named, path, metadata={"vop_jax": text})
    with pytest.raises(UserError, match=says) as error:
        load_tuned(path, size, None)
    assert "\n" not in str(error.value)


def test_a_file_without_one_of_them_is_refused(tmp_path):
    path = tmp_path / "tuned.safetensors"
    save(path, PromptConfig(fusion_layers=1))
    named, metadata = read_tuned(path)
    named.pop("fusion.down.weight")
    text = json.dumps(metadata)
    safetensors.numpy.save_file(named, path, metadata={"vop_jax": text})
    with pytest.raises(UserError, match="fusion_layers 1, but its tensors are"):
        load_tuned(path, SIZE, None)


@pytest.mark.slow
def test_a_converted_model_keeps_what_is_no_weight_of_a_clip(tmp_path):
    """LoRA goes into the weights, the fusion of frames stays beside them."""
    path = tmp_path / "tuned.safetensors"
    config = METHODS["ivfusion"].prompt_config(SIZE.vision.layers, FRAMES)
    save(path, config, load_backbone(BACKBONE).sha256)
    source = tmp_path / "source"
    source.mkdir()
    for file in BACKBONE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    (source / "tuned.safetensors").write_bytes(path.read_bytes())
    convert(source, tmp_path / "merged", "huggingface")
    named, metadata = read_tuned(tmp_path / "merged" / "tuned.safetensors")
    assert set(named) == FUSION
    assert metadata["renormalize_video"] is True
    before, after = load(source), load(tmp_path / "merged")
    random = np.random.default_rng(1)
    frames = random.integers(0, 256, (2, FRAMES, 48, 48, 3), np.uint8)
    video = before.encode_videos(frames)
    np.testing.assert_allclose(after.encode_videos(frames), video, atol=1e-5)
    # And they see each other: one frame's class token depends on the others.
    swapped = np.concatenate([frames[:, :1], frames[::-1, 1:]], axis=1)
    alone = [
        before.encode_videos(frames[:, :1]) - before.encode_videos(swapped[:, :1]),
        video - before.encode_videos(swapped),
    ]
    assert np.abs(alone[0]).max() < 1e-6 < 1e-3 < np.abs(alone[1]).max()
    np.testing.assert_allclose(np.linalg.norm(video, axis=1), 1, atol=1e-5)
