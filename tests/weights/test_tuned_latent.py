"""`tuned.safetensors` of global prompts and a latent: names, sizes, what is refused."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import safetensors.numpy

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.families import SIZES
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import added_shapes
from vop_jax.weights.tuned import load_tuned, save_tuned
from vop_jax.weights.tuned_metadata import metadata_of

SIZE = SIZES["demo"]
LINEAR = PromptConfig(global_length=4, num_frames=8)
TRANSFORMER = dataclasses.replace(LINEAR, latent="transformer")
CONFIGS = {
    "dgl_linear": LINEAR,
    "dgl_transformer": TRANSFORMER,
    "dgl_linear, postfix kept": dataclasses.replace(LINEAR, postfix=True),
    "dgl_linear and lora": dataclasses.replace(LINEAR, lora_rank=2),
}
SLOW = ("dgl_linear", "dgl_linear and lora")
LINEAR_NAMES = {
    "global_prompts": (4, 64),
    # The vision tower has 4 layers, the text tower 3.
    "latent": (4, 4 * 64),
    "text_prefix.weight": (64, 64),
    "text_prefix.bias": (64,),
}


shapes_of = functools.cache(added_shapes)


def saved(path, config, **changes):
    """A file of a configuration with random values; its leaves."""
    rng = np.random.default_rng(0)
    leaves = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes_of(SIZE, config).items()
    }
    metadata = metadata_of("dgl_linear", config, SIZE.vision.layers, None)
    save_tuned(path, leaves, SIZE, metadata | changes)
    return leaves


@pytest.mark.parametrize(
    "name",
    [
        # The linear form is that of the test of names, and of all methods' files.
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in CONFIGS
    ],
)
def test_names_and_shapes_say_what_acts(tmp_path, name):
    path, config = tmp_path / "tuned.safetensors", CONFIGS[name]
    leaves = saved(path, config)
    found = load_tuned(path, SIZE, None)
    # Without a context module it makes no difference which one it is.
    assert dataclasses.replace(found.prompts, cmm=config.cmm) == config
    assert found.leaves.keys() == leaves.keys()
    for key, value in leaves.items():
        np.testing.assert_array_equal(found.leaves[key], value)


def test_frames_are_counted_in_the_latent(tmp_path):
    path = tmp_path / "tuned.safetensors"
    saved(path, TRANSFORMER, num_frames=7)
    says = r"latent has shape \[40, 256\], but this backbone's is \[36, 256\]"
    with pytest.raises(UserError, match=says):
        load_tuned(path, SIZE, None)


def test_the_names_of_the_file(tmp_path):
    path = tmp_path / "tuned.safetensors"
    saved(path, LINEAR)
    named = safetensors.numpy.load_file(path)
    assert {name: value.shape for name, value in named.items()} == LINEAR_NAMES
    with safetensors.safe_open(path, "numpy") as file:
        metadata = json.loads(file.metadata()["vop_jax"])
    assert metadata == {
        "format": 1,
        "method": "dgl_linear",
        "num_frames": 8,
        "split_layer": 4,
        "text_layout": "prefix",
        "backbone_sha256": None,
        "global_length": 4,
        "tensors": len(LINEAR_NAMES),
    }


def changed(path, change, config=LINEAR, **metadata):
    """Changes the tensors of a file that was saved."""
    saved(path, config, **metadata)
    named = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        said = file.metadata()
    change(named)
    safetensors.numpy.save_file(named, path, said)


def put(name, *shape):
    return lambda named: named.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda named: named.pop("latent"), "latent is missing"),
        (lambda named: named.pop("text_prefix.bias"), "text_prefix.bias is missing"),
        (lambda named: named.pop("global_prompts"), "states global_length 4, but"),
        (put("global_prompts", 4), r"global_prompts has shape \[4\]; export it again"),
        (put("global_prompts", 3, 64), "global_length 4, but its tensors are for 3"),
        (put("latent", 4, 3 * 64), r"latent has shape \[4, 192\], but this backbone"),
        (put("text_postfix.weight", 64, 64), "text_postfix.bias is missing"),
        (put("text_prompts", 3, 2, 64), "global_length brings prompts of its own"),
        (put("video_prompts", 4, 2, 64), "global_length brings prompts of its own"),
    ],
    ids=lambda x: x[:30] if isinstance(x, str) else "with",
)
def test_what_does_not_fit_is_one_line(tmp_path, change, says):
    path = tmp_path / "tuned.safetensors"
    changed(path, change)
    with pytest.raises(UserError, match=says) as error:
        load_tuned(path, SIZE, None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("metadata", [{"split_layer": 2}, {"first_layer": 2}])
def test_metadata_of_other_prompts_is_refused(tmp_path, metadata):
    path = tmp_path / "tuned.safetensors"
    saved(path, LINEAR, **metadata)
    with pytest.raises(UserError, match="global_length brings prompts of its own"):
        load_tuned(path, SIZE, None)


def test_a_backbone_without_such_a_row_is_refused(tmp_path):
    path = tmp_path / "tuned.safetensors"
    saved(path, LINEAR)
    pooled = dataclasses.replace(SIZE.vision, pooling_heads=2)
    with pytest.raises(UserError, match="does not read a class token"):
        load_tuned(path, dataclasses.replace(SIZE, vision=pooled), None)
