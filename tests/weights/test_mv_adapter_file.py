"""Adapters behind the MLP in `tuned.safetensors`."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from small_families import FAMILIES
from tiers import slow

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.families import SIZES
from vop_jax.model.methods import METHODS
from vop_jax.model.shapes import added_shapes
from vop_jax.weights.tuned import load_tuned, read_tuned, save_tuned
from vop_jax.weights.tuned_metadata import metadata_of

SIZE, FRAMES = SIZES["demo"], 3
ROW = METHODS["mv_adapter"]
BLOCK = {
    f"block.{part}.{x}"
    for part in (
        *(f"self_attn.{y}_proj" for y in ("q", "k", "v", "out")),
        *("mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"),
    )
    for x in ("weight", "bias")
}
BOTH = {f"{x}.{y}" for x in ("down", "up", "ln_pre") for y in ("weight", "bias")}
BOTH |= BLOCK | {"positions"}
VISION = {"token", "calibration.b.weight"}
VISION |= {f"calibration.{x}.{y}" for x in "ga" for y in ("weight", "bias")}
NAMES = {
    "adapters.shared",
    *(f"adapters.{x}.tie.{y}" for x in ("vision", "text") for y in ("weight", "bias")),
    *(f"adapters.text.after_mlp.{x}" for x in BOTH),
    *(f"adapters.vision.after_mlp.{x}" for x in BOTH | VISION),
}


def config_of(size=SIZE, **changes):
    whole = ROW.prompt_config(size.vision.layers, FRAMES)
    return dataclasses.replace(whole, **changes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file of other widths than the usual ones, and what it holds."""
    path = tmp_path_factory.mktemp("file") / "tuned.safetensors"
    # Without prompts from a context its module is not said.
    config = config_of(adapter_width=8, adapter_words=20, cmm="transformer")
    random = np.random.default_rng(0)
    leaves = {
        name: random.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in added_shapes(SIZE, config).items()
    }
    layers = SIZE.vision.layers
    metadata = metadata_of("mv_adapter", config, layers, None, renormalize_video=True)
    save_tuned(path, leaves, SIZE, metadata)
    return path, config, leaves


def test_the_mechanism_is_read_off_the_tensors(saved):
    path, config, leaves = saved
    with safetensors.safe_open(path, "numpy") as file:
        assert set(file.keys()) == NAMES
        metadata = json.loads(file.metadata()["vop_jax"])
    assert (metadata["method"], metadata["num_frames"]) == ("mv_adapter", FRAMES)
    assert metadata["renormalize_video"] is True
    assert not [name for name in metadata if "adapter" in name]
    found = load_tuned(path, SIZE, None)
    assert found.prompts == config
    assert found.leaves.keys() == leaves.keys()
    for name, value in leaves.items():
        np.testing.assert_array_equal(found.leaves[name], value)


def changed(saved, path, change, **metadata):
    """The file with other tensors."""
    named, stated = read_tuned(saved[0])
    named = change(named)
    text = json.dumps(stated | metadata)
    safetensors.numpy.save_file(named, path, metadata={"vop_jax": text})
    return path


def only(word):
    return lambda named: {k: x for k, x in named.items() if word in k}


def without(word):
    return lambda named: {k: x for k, x in named.items() if word not in k}


def first_layers(named):
    return {k: x[:3] if "after_mlp" in k else x for k, x in named.items()}


def renamed(old, new):
    return lambda named: {k.replace(old, new): x for k, x in named.items()}


@pytest.mark.parametrize(
    ("change", "metadata", "says"),
    [
        (without("shared"), {}, r"adapters\.shared is missing"),
        (without("tie"), {}, r"adapters\.\w+\.tie\.\w+ is missing"),
        slow(only("shared"), {}, r"unexpected adapters\.shared"),
        (first_layers, {}, r"config\.prompts\.adapter=after_mlp looks at"),
        (lambda x: x, {"split_layer": 2}, r"config\.prompts\.adapter=after_mlp looks"),
        slow(lambda x: x, {"num_frames": 4}, r"positions has shape .*this backbone's"),
        (renamed("after_mlp", "after_all"), {}, "is not an adapter"),
        (renamed("adapters.shared", "adapters.shared.x"), {}, "is not an adapter"),
    ],
)
def test_a_file_that_cannot_be_is_refused(saved, tmp_path, change, metadata, says):
    path = changed(saved, tmp_path / "other.safetensors", change, **metadata)
    with pytest.raises(UserError, match=says) as error:
        load_tuned(path, SIZE, None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [lambda named: named, only("text")])
def test_a_backbone_without_a_class_token_is_refused(saved, tmp_path, change):
    path = changed(saved, tmp_path / "other.safetensors", change)
    with pytest.raises(UserError, match="no class token to look at other frames"):
        load_tuned(path, FAMILIES["siglip"], None)
