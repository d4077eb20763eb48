"""What `convert` makes of the embedded backbones: transformers loads and runs it."""

import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch

from data_pipelines.console.errors import UserError
from vop_jax.api import load
from vop_jax.weights.backbone import load_backbone
from vop_jax.weights.clip_export import convert
from vop_jax.weights.file_names import WEIGHTS
from vop_jax.weights.locate import EMBEDDED

transformers = pytest.importorskip("transformers")
CLASSES = {"demo": "CLIPModel", "demo_siglip": "SiglipModel"}
TEXTS = ["a red circle moves up", "a small blue arrow at the left"]


def theirs_of(folder, kind):
    """The model of transformers' class, which must not have a word to say."""
    kind = getattr(transformers, kind)
    model, told = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


def unit(x):
    return torch.nn.functional.normalize(x.pooler_output, dim=-1).numpy()


@pytest.mark.parametrize("name", EMBEDDED)
@torch.no_grad()
def test_transformers_loads_it_with_the_same_features(name, tmp_path):
    convert(EMBEDDED[name], tmp_path / "out", "huggingface")
    theirs, ours = theirs_of(tmp_path / "out", CLASSES[name]), load(tmp_path / "out")
    size = ours.backbone.size
    for number in {"logit_scale", "logit_bias"} & ours.backbone.params.keys():
        assert getattr(theirs, number).item() == ours.backbone.params[number]
    ids = ours.tokenizer(TEXTS)
    text = unit(theirs.get_text_features(input_ids=torch.tensor(ids).long()))
    np.testing.assert_allclose(ours.encode_texts(TEXTS), text, atol=1e-5)
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 48, 48, 3), np.uint8)
    pixels = (frames[:, 0] / 255 - size.frames.mean) / size.frames.deviation
    pixels = torch.tensor(np.moveaxis(pixels, -1, 1).astype(np.float32))
    video = unit(theirs.get_image_features(pixels))
    np.testing.assert_allclose(ours.encode_videos(frames), video, atol=1e-5)


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("stated", [True, False])
def test_transformers_gives_texts_the_same_ids(name, stated, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(EMBEDDED[name], source)
    if not stated:
        (source / "tokenizer_config.json").unlink()
    convert(source, out, "huggingface")
    for file in source.glob("tokenizer*"):
        assert (out / file.name).read_bytes() == file.read_bytes()
    ids = load(out).tokenizer([*TEXTS, "a " * 99])
    for kind in (transformers.AutoTokenizer, transformers.AutoProcessor):
        theirs = kind.from_pretrained(out)
        rows = theirs(text=[*TEXTS, "a " * 99], padding="max_length", truncation=True)
        assert np.array_equal(rows["input_ids"], ids)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_scale_of_either_shape_is_read_and_written_as_one_number(tmp_path, shape):
    """Files of older versions hold the scale as a vector, which transformers refuses.

    The shipped file is one of them; its bytes are what old runs know it by.
    """
    named = safetensors.numpy.load_file(EMBEDDED["demo"] / WEIGHTS)
    scale = named["logit_scale"].reshape(())
    (tmp_path / "in").mkdir()
    for file in EMBEDDED["demo"].iterdir():
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    named["logit_scale"] = scale.reshape(shape)
    safetensors.numpy.save_file(named, tmp_path / "in" / WEIGHTS)
    assert load_backbone(tmp_path / "in").params["logit_scale"] == scale
    convert(tmp_path / "in", tmp_path / "out", "huggingface")
    found = safetensors.numpy.load_file(tmp_path / "out" / WEIGHTS)
    assert found["logit_scale"].shape == ()
    assert found["logit_scale"] == scale


def test_a_conversion_that_is_refused_prints_no_hash(tmp_path, capsys):
    with pytest.raises(UserError, match="no place for a SigLIP"):
        convert(EMBEDDED["demo_siglip"], tmp_path / "out", "openai")
    assert not capsys.readouterr().out
