"""Merged tokens in `tuned.safetensors` and in a converted model."""

import json
import shutil

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from small_families import FAMILIES
from tiers import slow

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
from vop_jax.weights.tuned_metadata import MERGED, metadata_of

SIZE = SIZES["demo"]
LORA = {f"lora.{tower}.{x}" for tower in ("vision", "text") for x in "AB"}
TWELVE = PromptConfig(lora_rank=2, merge_layers=3)


def save(path, config, sha256=None, size=SIZE):
    random = np.random.default_rng(0)
    leaves = {
        path: random.normal(0, 0.1, shape).astype(np.float32)
        for path, shape in added_shapes(size, config).items()
    }
    metadata = metadata_of(
        "tempme", config, size.vision.layers, sha256, renormalize_video=True
    )
    save_tuned(path, leaves, size, metadata)
    return leaves


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        (TWELVE, (12, 6, 3)),
        slow(PromptConfig(merge_layers=1, num_frames=5, merge_share_after=0.2), (5,)),
        slow(PromptConfig(merge_layers=2, num_frames=8, merged_per_layer=4), (8, 4)),
    ],
)
def test_the_mechanism_is_read_off_the_tensors(tmp_path, config, rows):
    path = tmp_path / "tuned.safetensors"
    leaves = save(path, config)
    with safetensors.safe_open(path, "numpy") as file:
        tables = {f"merge.positions.{n}": (x, 64) for n, x in enumerate(rows)}
        others = LORA if config.lora_rank else set()
        assert set(file.keys()) == others | tables.keys()
        for name, shape in tables.items():
            assert file.get_tensor(name).shape == shape
        metadata = json.loads(file.metadata()["vop_jax"])
    assert metadata["method"] == "tempme"
    # What is as usual has no word.
    stated = {name: metadata[name] for name in MERGED if name in metadata}
    usual = {name: getattr(PromptConfig, name) for name in MERGED}
    assert usual | stated == {name: getattr(config, name) for name in MERGED}
    assert len(stated) == (config != TWELVE)
    found = load_tuned(path, SIZE, None)
    assert found.prompts.joins() == config.joins()
    assert all(getattr(found.prompts, x) == getattr(config, x) for x in MERGED)
    assert found.leaves.keys() == leaves.keys()
    for name, value in leaves.items():
        np.testing.assert_array_equal(found.leaves[name], value)


@pytest.mark.parametrize(
    ("changes", "stated", "size", "says"),
    [
        ({1: None}, {}, SIZE, r"merge\.positions\.1 is missing; export it again"),
        ({1: 4}, {}, SIZE, r"positions\.1 has shape .4, 64., but 12 frames are 6 aft"),
        ({}, {"num_frames": 8}, SIZE, r"positions\.0 has shape .12, 64., but 8 frames"),
        ({2: None}, {"split_layer": 2}, SIZE, "and joint attention after layer 2; use"),
        ({0: 10, 1: 5, 2: 2}, {"num_frames": 10}, SIZE, "do not go together.*num_fram"),
        ({3: 1}, {}, SIZE, "which the last joins no frames; use the backbone"),
        ({}, {"merge_share_after": 1.5}, SIZE, "merge_share_after"),
        ({}, {}, FAMILIES["siglip"], "does not read the class token alone"),
        ({}, {}, FAMILIES["eva02"], "turns each patch by its place in the frame"),
        ({}, {}, SIZES["vit_b32"], "this backbone has 12 layers, and joint attention"),
        slow(
            *({}, {"split_layer": 12}, SIZES["vit_b32"]),
            "merge.positions.0 has shape .12, 64., but this backbone's is .12, 768.",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, changes, stated, size, says):
    path = tmp_path / "tuned.safetensors"
    save(path, PromptConfig(merge_layers=3))
    named, metadata = read_tuned(path)
    for n, rows in changes.items():
        named.pop(f"merge.positions.{n}", None)
        if rows is not None:
            named[f"merge.positions.{n}"] = np.zeros((rows, 64), np.float32)
    text = json.dumps(metadata | stated)
    safetensors.numpy.save_file(named, path, metadata={"vop_jax": text})
    with pytest.raises(UserError, match=says) as error:
        load_tuned(path, size, None)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_converted_model_keeps_what_is_no_weight_of_a_clip(tmp_path):
    """LoRA goes into the weights, the tables stay beside them."""
    source = tmp_path / "source"
    shutil.copytree(BACKBONE, source)
    config = METHODS["tempme"].prompt_config(SIZE.vision.layers, 8)
    sha256 = load_backbone(BACKBONE).sha256
    save(source / "tuned.safetensors", config, sha256)
    convert(source, tmp_path / "merged", "huggingface")
    named, metadata = read_tuned(tmp_path / "merged" / "tuned.safetensors")
    assert set(named) == {"merge.positions.0"}
    assert metadata["renormalize_video"] is True
    before, after = load(source), load(tmp_path / "merged")
    frames = np.random.default_rng(1).integers(0, 256, (2, 8, 48, 48, 3), np.uint8)
    video = before.encode_videos(frames)
    np.testing.assert_allclose(after.encode_videos(frames), video, atol=1e-5)
    # Frames are joined: one that changes moves what is merged of all.
    np.testing.assert_allclose(np.linalg.norm(video, axis=1), 1, atol=1e-5)
    with pytest.raises(UserError, match=r"7 frames per video, .* belong to 8 frame"):
        before.encode_videos(frames[:, 1:])
    wide = load(source, dtype="bfloat16").encode_videos(frames)
    assert 1e-5 < np.abs(wide - video).max() < 0.05
