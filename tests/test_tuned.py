"""`tuned.safetensors`: the names and layouts of PyTorch, and what is refused."""

import numpy as np
import pytest
import safetensors.numpy

from data_pipelines.errors import UserError
from vop_jax.sizes import SIZES
from vop_jax.tuned import load_tuned, save_tuned

SIZE = SIZES["demo"]
PATHS = ["prompts/text/prompts/text_prompts", "prompts/vision/prompts/video_prompts"]
METADATA = {
    "method": "vop",
    "num_frames": 8,
    "split_layer": 4,
    "text_layout": "prefix",
    "backbone_sha256": "ab" * 32,
}


def leaves():
    rng = np.random.default_rng(0)
    shapes = {
        PATHS[0]: (3, 8, 64),
        PATHS[1]: (4, 2, 64),
        "params/vision/last_layer/attention/query/kernel": (64, 2, 32),
        "params/vision/last_layer/mlp/fc_1/bias": (256,),
        "params/text/projection": (64, 64),
    }
    return {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "tuned.safetensors"
    save_tuned(path, leaves(), SIZE, METADATA)
    named = safetensors.numpy.load_file(path)
    assert set(named) == {
        "text_prompts",
        "video_prompts",
        "vision_model.encoder.layers.3.self_attn.q_proj.weight",
        "vision_model.encoder.layers.3.mlp.fc1.bias",
        "text_projection.weight",
    }
    # PyTorch's Linear holds [out, in].
    np.testing.assert_array_equal(
        named["text_projection.weight"], leaves()["params/text/projection"].T
    )
    tuned = load_tuned(path, SIZE, METADATA["backbone_sha256"])
    assert tuned.metadata == {"format": 1, **METADATA}
    assert tuned.leaves.keys() == leaves().keys()
    for name, value in leaves().items():
        np.testing.assert_array_equal(tuned.leaves[name], value)


def test_what_is_refused(tmp_path):
    path = tmp_path / "tuned.safetensors"
    with pytest.raises(UserError, match="is missing"):
        load_tuned(path, SIZE, None)
    save_tuned(path, leaves(), SIZE, METADATA)
    with pytest.raises(UserError, match="another backbone"):
        load_tuned(path, SIZE, "cd" * 32)
    extra = leaves() | {"prompts/vision/prompts/else": np.zeros((2, 3), np.float32)}
    save_tuned(path, extra, SIZE, METADATA)
    with pytest.raises(UserError, match="left over else"):
        load_tuned(path, SIZE, None)
    narrow = leaves() | {PATHS[0]: np.zeros((3, 8, 32), np.float32)}
    save_tuned(path, narrow, SIZE, METADATA)
    with pytest.raises(UserError, match=r"text_prompts has shape \[3, 8, 32\]"):
        load_tuned(path, SIZE, None)
    save_tuned(path, leaves(), SIZE, METADATA | {"split_layer": 3})
    with pytest.raises(UserError, match="frame_positions is missing"):
        load_tuned(path, SIZE, None)
    save_tuned(path, leaves(), SIZE, METADATA)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_tuned(path, SIZE, METADATA["backbone_sha256"])
    safetensors.numpy.save_file({"text_prompts": np.zeros(3)}, path)
    with pytest.raises(UserError, match="not written by vop_jax"):
        load_tuned(path, SIZE, METADATA["backbone_sha256"])


def test_any_backbone_where_none_is_named(tmp_path):
    path = tmp_path / "tuned.safetensors"
    save_tuned(path, leaves(), SIZE, METADATA | {"backbone_sha256": None})
    assert load_tuned(path, SIZE, "cd" * 32).leaves
