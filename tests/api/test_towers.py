"""A model of which only one tower is loaded."""

import jax
import numpy as np
import pytest
from tiers import slow

import vop_jax
from data_pipelines.console.errors import UserError
from data_pipelines.text.buckets import bucket_lengths
from vop_jax.model.clip.sizes import TOWERS
from vop_jax.model.embedder import FEW_TEXTS
from vop_jax.model.methods import METHODS, find_method
from vop_jax.model.shapes import abstract_variables
from vop_jax.model.trained import trained_mask
from vop_jax.model.tree_paths import paths
from vop_jax.weights.tuned import save_tuned
from vop_jax.weights.tuned_metadata import metadata_of

TEXTS = ["a red circle moves up", "a"]
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 3, 48, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def whole():
    return vop_jax.load("demo")


def tuned_file(path, whole, method):
    """A file of everything that a method trains, at random."""
    row, rng = find_method(method), np.random.default_rng(0)
    prompts = row.prompt_config(4, 3)
    variables = abstract_variables(whole.backbone.size, prompts)
    mask = paths(trained_mask(variables, row.trained))
    leaves = {
        name: rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        for name, leaf in paths(variables).items()
        if mask[name]
    }
    metadata = metadata_of(method, prompts, 4, whole.backbone.sha256)
    save_tuned(path, leaves, whole.backbone.size, metadata)
    return path


QUICK = (None, "vop", "full", "dgl_transformer")
TRAINED = [name for name, row in METHODS.items() if row.trained and name not in QUICK]


@pytest.mark.parametrize("method", [*QUICK, *map(slow, TRAINED)])
def test_each_tower_embeds_as_both_do(whole, tmp_path, method):
    tuned = method and tuned_file(tmp_path / "tuned.safetensors", whole, method)
    both, video, text = (
        vop_jax.load("demo", tuned, towers=x) for x in (TOWERS, ["vision"], ["text"])
    )
    assert both.fingerprint == video.fingerprint == text.fingerprint
    np.testing.assert_array_equal(text.encode_texts(TEXTS), both.encode_texts(TEXTS))
    np.testing.assert_array_equal(
        video.encode_videos(FRAMES), both.encode_videos(FRAMES)
    )
    for model, name in ((video, "text"), (text, "vision")):
        held = [x for x in paths(model.variables) if name in x.split("/")[:2]]
        assert not held


def test_what_a_tower_is_needed_for_is_refused_without_it():
    text, video = (vop_jax.load("demo", towers=[x]) for x in ("text", "vision"))
    with pytest.raises(UserError, match="without its vision tower"):
        text.encode_videos(FRAMES)
    with pytest.raises(UserError, match="without its text tower"):
        video.encode_texts(TEXTS)


@pytest.mark.parametrize("towers", [[], "text", ["audio"], ["text", "audio"]])
def test_a_model_has_two_towers(towers):
    with pytest.raises(UserError, match="one or more of vision, text"):
        vop_jax.load("demo", towers=towers)


def test_every_length_is_compiled_ahead(whole):
    """And none is compiled again by a text."""
    compiled = []
    text = vop_jax.load("demo", towers=["text"])
    text._embedder.embed_texts.clear_cache()
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event)
    )
    text.compile_texts()
    assert [x for x in compiled if x.endswith("backend_compile_duration")]
    compiled.clear()
    for words in range(text.tokenizer.length):
        text.encode_texts([" ".join(["red"] * words)])
    several = text.encode_texts(["red"] * FEW_TEXTS)
    assert not [x for x in compiled if x.endswith("backend_compile_duration")]
    assert len(bucket_lengths(text.tokenizer.length)) > 3
    assert several.shape == (FEW_TEXTS, text.encode_texts(["red"]).shape[1])
