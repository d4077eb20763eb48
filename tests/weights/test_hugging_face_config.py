"""A CLIP's config.json: as Hugging Face's own reader has it, and what is refused."""

import json
import resource
import subprocess
import sys

import numpy as np
import pytest
from own_time import at_most

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.families import SIZES
from vop_jax.model.clip.param_shapes import param_shapes
from vop_jax.weights.backbone import check_header, load_backbone
from vop_jax.weights.config_file import load_size, read_size, save_size
from vop_jax.weights.locate import BACKBONE
from vop_jax.weights.tensors import tensor_of

DEMO = json.loads((BACKBONE / "config.json").read_text())
TEXT = {"hidden_size": 128, "num_attention_heads": 4, "eos_token_id": 5}
VISION = {"image_size": 64, "patch_size": 16, "hidden_act": "gelu"}


def written(folder, values):
    text = values if isinstance(values, str) else json.dumps(values)
    (folder / "config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    "values",
    [
        DEMO,
        {"model_type": "clip"},
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 99},
        {"text_config": None, "vision_config": VISION},
        {"text_config_dict": TEXT, "vision_config_dict": VISION},
        {"text_config": {"hidden_size": 64}, "text_config_dict": TEXT},
        {"text_config": TEXT, "text_config_dict": {}, "model_type": "clip"},
        {"text_config": TEXT, "text_config_dict": None, "model_type": "clip"},
        {"vision_config": {"layer_norm_eps": 1e-6, "num_channels": 3, "x": [1]}},
        {"text_config": {"vocab_size": 30, "eos_token_id": 29, "bos_token_id": 0}},
    ],
    ids=lambda x: str(sorted(x))[:60],
)
def test_the_size_is_hugging_faces(tmp_path, values):
    transformers = pytest.importorskip("transformers")
    size = read_size(written(tmp_path, values) / "config.json")
    theirs = transformers.CLIPConfig.from_dict(json.loads(json.dumps(values)))
    text, vision = theirs.text_config, theirs.vision_config
    for ours, other in ((size.text, text), (size.vision, vision)):
        assert ours.width == other.hidden_size
        assert ours.layers == other.num_hidden_layers
        assert ours.heads == other.num_attention_heads
        assert ours.mlp == other.intermediate_size
        assert ours.activation == other.hidden_act
        assert ours.epsilon == other.layer_norm_eps
    assert (size.image_size, size.patch_size) == (vision.image_size, vision.patch_size)
    assert size.vocabulary == text.vocab_size
    assert size.context_length == text.max_position_embeddings
    assert size.embedding == theirs.projection_dim
    assert size.eos_id == text.eos_token_id


def changed(tower, **fields):
    return DEMO | {f"{tower}_config": DEMO[f"{tower}_config"] | fields}


NUMBERS = {
    "vision": ("hidden_size", "num_hidden_layers", "num_attention_heads"),
    "text": ("intermediate_size", "vocab_size", "max_position_embeddings"),
}
WRONG = (0, -1, 10**9, 10**30, [64], "64", 64.0, True, None, {})


@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize(
    ("tower", "field"),
    [(tower, field) for tower in NUMBERS for field in NUMBERS[tower]]
    + [("vision", "image_size"), ("vision", "patch_size"), ("text", "eos_token_id")],
)
def test_a_number_that_is_none_of_a_clip_is_refused(tmp_path, tower, field, wrong):
    if (field, wrong) == ("eos_token_id", 0):
        wrong = 82
    with pytest.raises(UserError, match=r"config\.json.*(must|range)") as error:
        load_size(written(tmp_path, changed(tower, **{field: wrong})))
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)
    assert field in str(error.value) or "out of range" in str(error.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested too deeply"),
        ('{"vision_config": {"layer_norm_eps": NaN}}', "NaN is out of range"),
        ('{"vision_config": {"layer_norm_eps": 1e999}}', "1e999 is out of range"),
        ('{"model_type": "clip", "model_type": "clip"}', "appears twice"),
        ("[]", "it is \\[\\], not an object"),
        ("{}", "neither a model_type nor a vision_config"),
        ({"method": "vop", "backbone": "demo"}, "neither a model_type nor"),
        (
            DEMO | {"model_type": "siglip2"},
            "model_type is .siglip2., a SigLIP 2 of variable resolution .NaFlex.; use",
        ),
        (DEMO | {"model_type": "blip"}, "model_type is .blip., a captioner"),
        (
            DEMO | {"model_type": "altclip"},
            "is .altclip.; it must be one of clip, metaclip_2, siglip",
        ),
        (DEMO | {"model_type": 3}, "model_type is 3"),
        (DEMO | {"projection_dim": None}, "projection_dim is null"),
        (DEMO | {"projection_dim": 10**9}, "projection_dim is 1000000000; it must"),
        (DEMO | {"text_config": 3}, "text_config is 3; it must be an object"),
        (DEMO | {"vision_config_dict": [1]}, "vision_config is .*; it must be an obj"),
        (changed("vision", layer_norm_eps=-1e-5), "layer_norm_eps is -1e-05; .* more"),
        (changed("vision", layer_norm_eps=0), "layer_norm_eps is 0; it must be more"),
        (changed("text", layer_norm_eps="1e-5"), "must be a number"),
        (changed("text", layer_norm_eps=None), "layer_norm_eps is null; .* a number"),
        (changed("vision", hidden_act="gelu_new"), 'hidden_act is "gelu_new"; it must'),
        (changed("vision", hidden_act=["gelu"]), "hidden_act is"),
        (changed("vision", num_attention_heads=3), "must divide the hidden_size of 64"),
        (changed("vision", patch_size=9), "patch_size is 9; it must divide"),
        (changed("vision", patch_size=96), "patch_size is 96; it must divide"),
        (changed("vision", image_size=4096, patch_size=1), "at most 65,536 patches"),
        (changed("vision", image_size=[48, 48]), "image_size is \\[48, 48\\]; it must"),
        (changed("vision", num_channels=4), "num_channels is 4; it must be 3"),
        (changed("vision", num_hidden_layers=1), "num_hidden_layers is 1; .* least 2"),
        (changed("text", eos_token_id=82), "must be less than the vocab_size of 82"),
        (changed("text", eos_token_id=[81]), "eos_token_id is \\[81\\]"),
        (changed("text", vocab_size=81), "must be less than the vocab_size of 81"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_what_is_refused_is_one_line(tmp_path, values, says):
    with pytest.raises(UserError, match=says) as error:
        load_size(written(tmp_path, values))
    assert "config.json" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_labels_are_not_made(tmp_path):
    values = DEMO | {"num_labels": 10**8, "id2label": {}, "text_config_extra": [1]}
    values["vision_config"] = values["vision_config"] | {"num_labels": 10**8}
    with at_most(1):
        assert load_size(written(tmp_path, values)) == SIZES["demo"]


PROGRAM = """
import sys
from pathlib import Path
from vop_jax.weights.clip_export import convert
convert(Path(sys.argv[1]), Path(sys.argv[2]), "huggingface")
assert "transformers" not in sys.modules
assert "torch" not in sys.modules
"""


def test_no_library_of_hugging_faces_is_imported(tmp_path):
    """Neither to read a CLIP's folder nor to write one."""
    output = tmp_path / "out"
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(BACKBONE), str(output)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert load_size(output) == load_size(BACKBONE)


@pytest.mark.parametrize("name", ["vit_b32", "vit_l14_336", "demo"])
def test_what_is_written_is_what_hugging_face_would_write(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    size = SIZES[name]
    save_size(tmp_path, size)
    assert read_size(tmp_path / "config.json") == size
    written = json.loads((tmp_path / "config.json").read_text())
    theirs = transformers.CLIPConfig.from_pretrained(tmp_path).to_dict()
    for part in ("vision_config", "text_config"):
        stated = written.pop(part)
        assert stated.items() <= theirs[part].items()
        # What is not stated has its default.
        defaults = getattr(transformers.CLIPConfig(), part).to_dict()
        for key in theirs[part].keys() - stated.keys():
            assert theirs[part][key] == defaults[key], key
    assert written.items() <= theirs.items()


def weights():
    return {
        name: tensor_of(np.broadcast_to(np.float32(0), shape))
        for name, shape in {
            "text_model.embeddings.token_embedding.weight": (82, 64),
            "text_model.embeddings.position_embedding.weight": (32, 64),
            "text_projection.weight": (64, 64),
            "vision_model.embeddings.patch_embedding.weight": (64, 3, 8, 8),
            "vision_model.encoder.layers.0.layer_norm1.weight": (64,),
            "vision_model.encoder.layers.3.layer_norm1.weight": (64,),
        }.items()
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed("vision", num_hidden_layers=1000), "holds 4 layers of the vision tow"),
        (changed("text", num_hidden_layers=1000), "holds 3 layers of the text tower"),
        (
            changed("text", vocab_size=10**6),
            r"\[82, 64\], and its config states \[1000",
        ),
        (
            changed("text", max_position_embeddings=50_000),
            r"\[32, 64\], .* \[50000, 64",
        ),
        (changed("text", intermediate_size=100_000), r"fc1.* states \[100000, 64\]"),
        (changed("vision", intermediate_size=100_000), r"fc1.* states \[100000, 64\]"),
        (changed("vision", hidden_size=16_384), "patch_embedding.*16384, 3"),
        (changed("vision", image_size=2048), r"\[37, 64\], .* states \[65537, 64\]"),
        (DEMO | {"projection_dim": 16_000}, r"projection.* states \[16000, 64\]"),
    ],
    ids=lambda x: str(x)[-30:],
)
def test_a_stated_size_is_that_of_the_header(tmp_path, monkeypatch, change, says):
    """The model of that size is not even made as shapes."""
    monkeypatch.setattr("vop_jax.weights.backbone.param_shapes", None)
    (tmp_path / "model.safetensors").symlink_to(BACKBONE / "model.safetensors")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with at_most(2), pytest.raises(UserError, match=says) as error:
        load_backbone(written(tmp_path, change))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
    assert "\n" not in str(error.value)


def test_the_header_of_the_right_size_fits():
    tensors = weights()
    del tensors["vision_model.encoder.layers.3.layer_norm1.weight"]
    with pytest.raises(UserError, match="holds 1 layers of the vision tower"):
        check_header(SIZES["demo"], tensors, "x")
    assert load_backbone(BACKBONE).params.keys() == {
        path.split("/")[0] for path in param_shapes(SIZES["demo"])
    }
