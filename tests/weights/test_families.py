"""Models of other families against transformers' own, at random weights."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
import small_tokenizers
import torch
from PIL import Image
from small_clip import random_params
from small_families import FAMILIES, METACLIP_2, SIGLIP
from tiers import slow_except

from data_pipelines.console.errors import UserError
from vop_jax.api import load
from vop_jax.weights.backbone import load_backbone, save_backbone
from vop_jax.weights.clip_export import convert
from vop_jax.weights.config_file import load_size, save_size
from vop_jax.weights.file_names import CONFIG, WEIGHTS

transformers = pytest.importorskip("transformers")
HALF = (0.5, 0.5, 0.5)


def siglip_config(**text):
    return transformers.SiglipConfig(
        text_config={
            "vocab_size": 50,
            "hidden_size": 24,
            "intermediate_size": 28,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 10,
            **text,
        },
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            # The last 2 pixels of a side are in no patch.
            "image_size": 26,
            "patch_size": 8,
        },
    )


def clip_config(kind, **text):
    tower = {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "hidden_act": "gelu",
    }
    return kind(
        text_config={
            **tower,
            "hidden_size": 16,
            "vocab_size": 60,
            "max_position_embeddings": 12,
            **text,
        },
        vision_config={**tower, "hidden_size": 24, "image_size": 24, "patch_size": 8},
        projection_dim=20,
    )


MODELS = {
    "siglip": lambda: (transformers.SiglipModel, siglip_config()),
    "metaclip_2": lambda: (
        transformers.MetaClip2Model,
        clip_config(
            transformers.MetaClip2Config,
            **{"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1},
        ),
    ),
}
# What transformers' image processors of these models do after scaling.
STATISTICS = {
    "siglip": (HALF, HALF),
    "metaclip_2": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def published(request, tmp_path_factory):
    """A small model that transformers has written."""
    kind, config = MODELS[request.param]()
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp(request.param) / "theirs"
    model.save_pretrained(folder)
    vocabulary = config.text_config.vocab_size
    small_tokenizers.WRITERS[request.param](folder, vocabulary)
    return request.param, folder, model


def texts_of(model, ids):
    out = model.get_text_features(input_ids=torch.tensor(ids).long())
    return torch.nn.functional.normalize(out.pooler_output, dim=-1).numpy()


def frames_of(name, model, frames):
    mean, deviation = STATISTICS[name]
    pixels = (frames / 255 - np.array(mean)) / np.array(deviation)
    pixels = np.moveaxis(pixels.reshape(-1, *frames.shape[2:]), -1, 1)
    out = model.get_image_features(torch.tensor(pixels.astype(np.float32)))
    out = torch.nn.functional.normalize(out.pooler_output, dim=-1)
    return out.unflatten(0, frames.shape[:2]).numpy()


IDS = {
    # Words, the end token, and what fills the context.
    "siglip": np.array(
        [[5, 7, 9, 1, 1, 1, 1, 1, 1, 1], [3, 4, 5, 6, 7, 8, 9, 10, 11, 1]], np.int32
    ),
    "metaclip_2": np.array(
        [[0, 9, 8, 2, 1, 1, 1, 1, 1, 1, 1, 1], [0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 2]],
        np.int32,
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("converted", [False, True])
def test_features_are_transformers(published, converted, tmp_path):
    name, folder, theirs = published
    if converted:
        convert(folder, tmp_path / "ours", "huggingface")
        folder = tmp_path / "ours"
    model = load(folder)
    size = model.image_size
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, size, size, 3), np.uint8)
    images = frames_of(name, theirs, frames)
    for i in range(3):
        ours = model.encode_videos(frames[:, i : i + 1])
        np.testing.assert_allclose(ours, images[:, i], atol=1e-5)
    video = model.encode_videos(frames)
    np.testing.assert_allclose(video, images.mean(1), atol=1e-5)
    ids = IDS[name]
    texts = model.encode_texts(ids)
    np.testing.assert_allclose(texts, texts_of(theirs, ids), atol=1e-5)


def test_a_round_trip_is_exact(published, tmp_path):
    """Through `convert`, and through the parameters; transformers reads the result."""
    _, folder, theirs = published
    convert(folder, tmp_path / "a", "huggingface")
    loaded = load_backbone(folder)
    (tmp_path / "b").mkdir()
    save_backbone(tmp_path / "b", loaded.size, loaded.params)
    wanted = safetensors.numpy.load_file(folder / WEIGHTS)
    for name in ("a", "b"):
        found = safetensors.numpy.load_file(tmp_path / name / WEIGHTS)
        assert sorted(found) == sorted(wanted)
        for key, value in wanted.items():
            assert found[key].shape == value.shape
            np.testing.assert_array_equal(found[key], value, err_msg=key)
        assert load_size(tmp_path / name) == loaded.size
        again = type(theirs).from_pretrained(tmp_path / name)
        for one, two in zip(again.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("family", slow_except(FAMILIES, "siglip"))
def test_a_folder_of_every_family_is_one(family, tmp_path):
    size = FAMILIES[family]
    params = random_params(size)
    save_backbone(tmp_path, size, params)
    small_tokenizers.WRITERS[size.family](tmp_path, size.vocabulary)
    found = load_backbone(tmp_path)
    assert found.size == size
    flat = dict(_flat(found.params))
    for path, value in _flat(params):
        np.testing.assert_array_equal(flat[path], value, err_msg=path)
    convert(tmp_path, tmp_path / "again", "huggingface")
    again = load_backbone(tmp_path / "again")
    assert again.size == size
    for path, value in _flat(again.params):
        np.testing.assert_array_equal(flat[path], value, err_msg=path)
    model = load(tmp_path / "again", num_frames=2)
    frames = np.zeros((1, 2, size.image_size, size.image_size, 3), np.uint8)
    assert np.isfinite(model.encode_videos(frames)).all()
    assert np.isfinite(model.encode_texts(["a dog"])).all()


def _flat(tree, path=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}/{name}")
        else:
            yield f"{path}/{name}", value


def test_what_transformers_cannot_say_is_said_in_our_own_form(tmp_path):
    vision = dataclasses.replace(SIGLIP.vision, pooling_heads=2)
    size = dataclasses.replace(SIGLIP, vision=vision)
    save_size(tmp_path, size)
    assert json.loads((tmp_path / CONFIG).read_text())["model_type"] == "vop_jax"
    assert load_size(tmp_path) == size


def changed(size, path, *keys, value):
    """A folder whose config.json has another value."""
    save_size(path, size)
    values = json.loads((path / CONFIG).read_text())
    place = values
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (path / CONFIG).write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("family", "keys", "value", "says"),
    [
        ("siglip", ("vision_config", "vision_use_head"), False, "vision_use_head is f"),
        ("siglip", ("text_config", "projection_size"), 7, "projection_size is 7; it m"),
        ("siglip", ("vision_config", "patch_size"), 27, "patch_size is 27"),
        ("pe_core", ("vision", "heads"), 5, "vision.heads is 5; it must divide"),
        ("pe_core", ("vision", "heads"), 12, "must be a multiple of 4"),
        ("pe_core", ("vision", "pooling_heads"), 5, "pooling_heads is 5; it must div"),
        ("pe_core", ("vision", "activation"), "relu", "activation is .relu."),
        ("pe_core", ("vision", "rotary", "order"), "yx", "order is .yx."),
        ("pe_core", ("vision", "rotary"), 3, "rotary is 3"),
        ("pe_core", ("family",), "unknown", "family is not one of"),
        ("pe_core", ("eos_id",), 60, "eos_id is 60; it must be less"),
        ("pe_core", ("patch_size",), 25, "patch_size is 25; it must"),
        ("pe_core", ("text", "projection"), "none", "without a projection it must"),
        ("pe_core_g", ("vision", "pooling_heads"), 0, "neither class_token nor pool"),
        ("metaclip_2", ("text_config", "eos_token_id"), 60, "less than the vocab_size"),
    ],
)
def test_a_description_that_is_none_is_one_line(tmp_path, family, keys, value, says):
    with pytest.raises(UserError, match=says) as error:
        load_size(changed(FAMILIES[family], tmp_path, *keys, value=value))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_the_end_token_is_decided_by_the_family(tmp_path):
    """A 2 in a CLIP's config.json says nothing; in a MetaCLIP 2's it is the token."""
    save_size(tmp_path, METACLIP_2)
    assert load_size(tmp_path).eos_id == 2
    values = json.loads((tmp_path / CONFIG).read_text()) | {"model_type": "clip"}
    (tmp_path / CONFIG).write_text(json.dumps(values))
    with pytest.raises(UserError, match="which token ends a caption"):
        load_size(tmp_path)


def test_a_config_of_another_family_is_refused(tmp_path):
    save_backbone(tmp_path, SIGLIP, random_params(SIGLIP))
    save_size(tmp_path, METACLIP_2)
    with pytest.raises(UserError, match=r"of one model|config states"):
        load_backbone(tmp_path)


def test_frames_are_made_as_transformers_makes_them(published, tmp_path):
    """From an image of any shape to its features."""
    name, folder, theirs = published
    model = load(folder)
    frames = np.random.default_rng(0).integers(0, 256, (1, 1, 50, 70, 3), np.uint8)
    side = {"height": model.image_size, "width": model.image_size}
    processors = {
        "siglip": lambda: transformers.SiglipImageProcessorPil(size=side),
        "metaclip_2": lambda: transformers.CLIPImageProcessorPil(
            size={"shortest_edge": model.image_size}, crop_size=side
        ),
    }
    images = Image.fromarray(frames[0, 0])
    pixels = processors[name]()(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = theirs.get_image_features(pixels).pooler_output
    expected = torch.nn.functional.normalize(out, dim=-1)
    np.testing.assert_allclose(model.encode_videos(frames), expected, atol=1e-5)
