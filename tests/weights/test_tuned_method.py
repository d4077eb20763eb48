"""The method that a tuned file states: a row of the table that can have trained it."""

import numpy as np
import pytest
from tiers import slow_except

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.families import SIZES
from vop_jax.model.methods import METHODS, find_method
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import added_shapes
from vop_jax.weights.tuned import load_tuned, save_tuned
from vop_jax.weights.tuned_metadata import metadata_of

SIZE, FRAMES = SIZES["demo"], 2
LAYERS = SIZE.vision.layers
LORA = METHODS["lora"].prompt_config(LAYERS, FRAMES)
BIAS = {"params/vision/last_layer/mlp/fc_1/bias": (256,)}


def saved(path, method, prompts, more=None):
    """A file of random parameters."""
    shapes = added_shapes(SIZE, prompts) | (more or {})
    leaves = {k: np.full(shape, 0.01, np.float32) for k, shape in shapes.items()}
    save_tuned(path, leaves, SIZE, metadata_of(method, prompts, LAYERS, None))
    return path


@pytest.mark.parametrize(
    "method", ["mv_adapter", "vop", "dgl_linear", "zero_shot", "full", "bias"]
)
def test_a_method_that_trains_none_of_it(tmp_path, method):
    path = saved(tmp_path / "x.safetensors", method, LORA)
    with pytest.raises(UserError, match=f"method is {method}, which trains none"):
        load_tuned(path, SIZE, None)


def test_a_method_of_other_parts_of_the_backbone(tmp_path):
    bare = PromptConfig(num_frames=FRAMES)
    path = saved(tmp_path / "x.safetensors", "proj", bare, BIAS)
    with pytest.raises(UserError, match="method is proj, which trains none"):
        load_tuned(path, SIZE, None)


def test_a_method_that_is_not_in_the_table(tmp_path):
    path = saved(tmp_path / "x.safetensors", "nosuch", LORA)
    with pytest.raises(UserError, match=r"metadata: .*nosuch.*lora") as error:
        load_tuned(path, SIZE, None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "method", slow_except(METHODS, "vop_fc", "tempme", "dgl_linear", "full")
)
def test_every_method_s_own_file_is_read(tmp_path, method):
    row = METHODS[method]
    prompts = row.prompt_config(LAYERS, FRAMES)
    more = BIAS if method in ("full", "bias", "partial") else {}
    if method == "proj":
        more = {"params/text/projection": (64, 64)}
    path = saved(tmp_path / "x.safetensors", method, prompts, more)
    assert load_tuned(path, SIZE, None).metadata["method"] == method


def test_a_user_s_choice_among_the_prompts_of_a_method(tmp_path):
    """As a study has them, and parts of several methods at once."""
    for method, prompts in (
        ("vop", PromptConfig(text_length=3, num_frames=FRAMES)),
        ("vop", PromptConfig(text_length=3, lora_rank=2, num_frames=FRAMES)),
        ("vop_lora", PromptConfig(lora_rank=2, num_frames=FRAMES)),
    ):
        path = saved(tmp_path / "x.safetensors", method, prompts, BIAS)
        assert load_tuned(path, SIZE, None).metadata["method"] == method
        find_method(method).check(method, prompts)


def test_what_could_not_be_loaded_is_not_trained():
    with pytest.raises(UserError, match=r"config.prompts has lora_rank alone, but"):
        find_method("mv_adapter").check("mv_adapter", LORA)
    for name, row in METHODS.items():
        row.check(name, row.prompt_config(LAYERS, FRAMES))
