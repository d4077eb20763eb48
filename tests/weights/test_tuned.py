"""`tuned.safetensors`: the names and layouts of PyTorch, and what is refused."""

import json
import tracemalloc
import typing

import numpy as np
import pytest
import safetensors.numpy
from own_time import at_most

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.families import SIZES
from vop_jax.model.prompts.config import LORA_PARTS
from vop_jax.model.prompts.sources import ROLES
from vop_jax.model.prompts.text_layout import TEXT_LAYOUTS
from vop_jax.weights.tuned import load_tuned, save_tuned
from vop_jax.weights.tuned_metadata import Metadata

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
    assert tuned.metadata == {"format": 1, **METADATA, "tensors": 5}
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
    with pytest.raises(UserError, match=r"this model: unexpected else$"):
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


def with_text(path, text):
    named = {
        "text_prompts": np.zeros((3, 8, 64), np.float32),
        "video_prompts": np.zeros((4, 2, 64), np.float32),
    }
    safetensors.numpy.save_file(named, path, metadata={"vop_jax": text})
    return path


def test_the_words_of_the_metadata_are_those_of_the_code():
    hints = typing.get_type_hints(Metadata)
    assert typing.get_args(hints["text_layout"]) == TEXT_LAYOUTS
    assert typing.get_args(hints["cmm_role"]) == tuple(ROLES)
    assert typing.get_args(hints["lora_parts"]) == LORA_PARTS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"renormalize_video": "false"}, 'renormalize_video is "false"; .* true or'),
        ({"renormalize_video": 1}, "renormalize_video is 1; it must be true or false"),
        ({"split_layer": 10**9}, "split_layer is 1000000000; it must be at most"),
        ({"split_layer": 5}, "split_layer is 5, but this backbone has 4 layers"),
        ({"split_layer": -1}, "split_layer is -1; it must be at least 0"),
        ({"split_layer": True}, "split_layer is true; it must be a whole number"),
        ({"num_frames": 10**9}, "num_frames is 1000000000; it must be at most 4096"),
        ({"num_frames": 0}, "num_frames is 0; it must be at least 1"),
        ({"num_frames": 8.0}, "num_frames is 8.0; it must be a whole number"),
        ({"num_frames": [8]}, "num_frames is .8.; it must be a whole number"),
        ({"first_layer": 10**9}, "first_layer is 1000000000; it must be at most"),
        ({"first_layer": 900}, "first_layer is 900, but this backbone has 4 layers"),
        ({"first_layer": 0}, "first_layer is 0; it must be at least 1"),
        ({"first_layer": None}, "first_layer is null"),
        ({"cmm_role": "both"}, 'cmm_role is "both"; it must be .prompts. or .update'),
        ({"cmm_role": ["prompts"]}, "cmm_role is"),
        ({"text_layout": {}}, "text_layout is"),
        ({"text_layout": "prefix\n"}, "text_layout is"),
        ({"method": "a\nb"}, "method is"),
        ({"method": "v" * 10**6}, "method is"),
        ({"method": None}, "method is null; it must be a string"),
        ({"backbone_sha256": "\n" * 64}, "backbone_sha256 is"),
        ({"backbone_sha256": 64}, "backbone_sha256 is 64; it must be a string"),
        ({"format": "1"}, 'has format "1"; this version reads 1'),
        ({"format": [1] * 10**5}, "has format a list of 100000; this version"),
        ({"format": 2}, "has format 2"),
    ],
    ids=lambda x: str(x)[:32],
)
def test_metadata_of_another_kind_is_one_line(tmp_path, change, says):
    text = json.dumps({"format": 1} | METADATA | change)
    with at_most(2), pytest.raises(UserError, match=says) as error:
        load_tuned(with_text(tmp_path / "tuned.safetensors", text), SIZE, None)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("key", METADATA)
def test_no_key_of_the_metadata_can_be_left_out(tmp_path, key):
    text = json.dumps({"format": 1} | {k: v for k, v in METADATA.items() if k != key})
    with pytest.raises(UserError, match=f"lacks the key '{key}'"):
        load_tuned(with_text(tmp_path / "tuned.safetensors", text), SIZE, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("{", "is not JSON"),
        ("3", "is 3; it must be an object"),
        ('{"format": 1, "format": 1}', "appears twice"),
        ('{"format": NaN}', "NaN is out of range"),
        ('{"format": ' + "9" * 5000 + "}", "is out of range"),
    ],
    ids=lambda x: x[:20],
)
def test_metadata_that_is_no_json_object_is_one_line(tmp_path, text, says):
    with pytest.raises(UserError, match=says) as error:
        load_tuned(with_text(tmp_path / "tuned.safetensors", text), SIZE, None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["adapters", "adapters.x", "adapters.ear.mlp.a"])
def test_an_adapter_of_no_tower_is_refused(tmp_path, name):
    path = tmp_path / "tuned.safetensors"
    text = json.dumps({"format": 1} | METADATA)
    named = {f"{name}.down.weight": np.zeros((3, 8, 64), np.float32)}
    safetensors.numpy.save_file(named, path, metadata={"vop_jax": text})
    with pytest.raises(UserError, match="is not an adapter"):
        load_tuned(path, SIZE, None)


def test_prompts_leave_a_place_for_the_caption(tmp_path):
    path = tmp_path / "tuned.safetensors"
    metadata = METADATA | {"text_layout": "modelscope"}
    for count in (29, 30):
        prompts = {PATHS[0]: np.zeros((3, count, 64), np.float32)}
        save_tuned(path, prompts, SIZE, metadata)
        if count == 29:
            assert load_tuned(path, SIZE, None).prompts.text_length == 29
            continue
        with pytest.raises(UserError, match="no place for a caption"):
            load_tuned(path, SIZE, None)


def test_an_empty_tensor_of_any_length_takes_no_memory(tmp_path):
    path = tmp_path / "tuned.safetensors"
    text = json.dumps({"format": 1, **METADATA, "text_layout": "modelscope"})
    empty = {"text_prompts": np.zeros((3, 10**7, 0), np.float32)}
    safetensors.numpy.save_file(empty, path, metadata={"vop_jax": text})
    tracemalloc.start()
    with pytest.raises(UserError, match=r"tuned\.safetensors: text_prompts has shape"):
        load_tuned(path, SIZE, None)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("tensors", "metadata", "says"),
    [
        # Two tokens would be added to one class token.
        (
            {"context.fc.weight": (128, 64)},
            {"method": "vop_c", "cmm_role": "update_cls"},
            "cmm_role=update_cls adds one token",
        ),
        (
            {"text_prompts": (3, 4, 64)},
            {"text_layout": "modelscope", "first_layer": 2},
            "text_layout=modelscope has prompts in every layer",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_one_line(tmp_path, tensors, metadata, says):
    path = tmp_path / "tuned.safetensors"
    text = json.dumps({"format": 1, **METADATA, **metadata})
    arrays = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    safetensors.numpy.save_file(arrays, path, metadata={"vop_jax": text})
    with pytest.raises(UserError, match=says) as raised:
        load_tuned(path, SIZE, None)
    assert str(raised.value).startswith(f"{path}: its parts do not go together")
    assert str(raised.value).endswith("export it again")
