"""What CLIP files mean: heads, wrapped names, other models."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import torch
import torch_clip
from small_clip import SMALL, copied, folder_of, named, openai_file

from data_pipelines.console.errors import UserError
from vop_jax import convert as command
from vop_jax.api import load
from vop_jax.model.clip.sizes import VisionSize
from vop_jax.weights.backbone import load_backbone
from vop_jax.weights.clip_export import check_openai_size, convert
from vop_jax.weights.clip_names import recognise
from vop_jax.weights.config_file import load_size
from vop_jax.weights.inferred_size import size_of
from vop_jax.weights.records import unwrapped
from vop_jax.weights.tensors import Tensor, tensor_of


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return folder_of(SMALL, tmp_path_factory.mktemp("small") / "clip")


def inputs():
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (2, 2, 32, 32, 3), np.uint8)


def shapes_of(vision, text):
    """What `size_of` looks at, of towers of these widths."""
    found = {
        "vision_model.embeddings.patch_embedding.weight": (vision, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": (257, vision),
        "text_model.embeddings.token_embedding.weight": (49408, text),
        "text_model.embeddings.position_embedding.weight": (77, text),
        "text_projection.weight": (1024, text),
    }
    for tower, width in (("vision", vision), ("text", text)):
        for i in range(2):
            layer = f"{tower}_model.encoder.layers.{i}"
            found[f"{layer}.layer_norm1.weight"] = (width,)
            found[f"{layer}.mlp.fc1.weight"] = (4 * width, width)
    return {k: Tensor(x, lambda: pytest.fail("is read")) for k, x in found.items()}


# (vision width, heads, text width, heads): S/32-alt, B/32, B/32-plus, L/14, H/14, g/14,
# bigG/14, e/14.
PUBLISHED = [
    (384, 6, 256, 4),
    (768, 12, 512, 8),
    (896, 14, 640, 10),
    (1024, 16, 768, 12),
    (1280, 16, 1024, 16),
    (1408, 16, 1024, 16),
    (1664, 16, 1280, 20),
    (1792, 16, 1280, 20),
]


@pytest.mark.parametrize(("vision", "v_heads", "text", "t_heads"), PUBLISHED)
def test_heads_of_published_widths(vision, v_heads, text, t_heads):
    size, assumed = size_of(shapes_of(vision, text), (0, 0), "gelu", "x")
    assert (size.vision.heads, size.text.heads) == (v_heads, t_heads)
    assert not assumed


@pytest.mark.parametrize(
    ("vision", "text", "tower"),
    [
        (1152, 768, "vision"),
        (2048, 768, "vision"),
        (48, 64, "vision"),
        (768, 1536, "text"),
    ],
)
def test_heads_that_nothing_tells_are_asked_for(vision, text, tower):
    clip = shapes_of(vision, text)
    with pytest.raises(
        UserError, match=rf"{tower} tower of width.*--heads=VISION,TEXT"
    ):
        size_of(clip, (0, 0), "gelu", "x")
    size, assumed = size_of(clip, (8, 8), "gelu", "x")
    assert (size.vision.heads, size.text.heads, assumed) == (8, 8, "")


def test_a_small_width_of_nobody_is_assumed_aloud():
    size, assumed = size_of(shapes_of(128, 512), (0, 0), "gelu", "x")
    assert size.vision.heads == 2
    assert assumed == "2 heads of 64 in the vision tower"


@pytest.mark.slow
def test_features_of_an_h14_without_a_word_on_its_heads(tmp_path):
    """The first layers of one: 16 heads of 80, in open_clip's file alone."""
    size = dataclasses.replace(SMALL, vision=VisionSize(1280, 2, 16, 64))
    folder = folder_of(size, tmp_path / "clip")
    path = openai_file(folder, tmp_path / "open_clip_pytorch_model.bin")
    convert(path, tmp_path / "out", "huggingface", "quick_gelu")
    assert load_size(tmp_path / "out") == size
    frames = inputs()
    right = load(folder).encode_videos(frames)
    np.testing.assert_allclose(
        load(tmp_path / "out").encode_videos(frames), right, atol=1e-6
    )
    # Heads of 64, as was guessed, are another model.
    convert(path, tmp_path / "wrong", "huggingface", "quick_gelu", (20, 1))
    wrong = load(tmp_path / "wrong").encode_videos(frames)
    assert np.abs(wrong - right).max() > 1e-3


def test_heads_that_openais_format_would_lose():
    """It says none, so such a file would be read back with the published ones."""
    vision = VisionSize(1280, 2, 20, 5120)
    source: Any = SimpleNamespace(size=dataclasses.replace(SMALL, vision=vision))
    with pytest.raises(UserError, match="20 heads at width 1280, where published"):
        check_openai_size(source)


def test_heads_that_a_file_states_are_not_to_be_changed(small, tmp_path):
    with pytest.raises(UserError, match=r"--heads=4,1, but .*config\.json says 2,1"):
        convert(small, tmp_path / "out", "huggingface", "", (4, 1))
    convert(small, tmp_path / "out", "huggingface", "", (2, 1))


@pytest.mark.parametrize("value", ["16", "16,", "16,0", "a,b", "16,12,8", "-1,2"])
def test_the_flag_is_two_numbers(value, capsys, monkeypatch):
    arguments = ["x", "--input=a", "--output=b", f"--heads={value}"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "two numbers such as 16,12" in said


def test_a_metaclip_checkpoint(tmp_path, small):
    """As published: a state dictionary in a checkpoint, nothing beside it."""
    path = openai_file(
        small,
        tmp_path / "b32_400m.pt",
        lambda x: {"epoch": 1, "name": "m", "state_dict": x},
    )
    with pytest.raises(UserError, match="--activation=quick_gelu"):
        convert(path, tmp_path / "out", "huggingface")
    convert(path, tmp_path / "out", "huggingface", "quick_gelu")
    assert load_size(tmp_path / "out") == SMALL


PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrapped_names_in_a_folder_are_loaded(prefix, small, tmp_path):
    folder = copied(small, tmp_path / "clip", lambda name: prefix + name)
    loaded, plain = load_backbone(folder).params, load_backbone(small).params
    jax.tree.map(np.testing.assert_array_equal, loaded, plain)
    convert(folder, tmp_path / "out", "huggingface")
    assert named(tmp_path / "out").keys() == named(small).keys()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrapped_names_in_pytorchs_file(prefix, small, tmp_path):
    path = openai_file(
        small,
        tmp_path / "clip.pt",
        lambda x: {prefix + name: value for name, value in x.items()},
    )
    with pytest.raises(UserError, match="does not say its activation"):
        convert(path, tmp_path / "out", "huggingface")
    convert(path, tmp_path / "out", "huggingface", "quick_gelu")
    assert named(tmp_path / "out").keys() == named(small).keys()


def test_parts_that_are_wrapped():
    """A part compiled, sharded or checkpointed by itself has it in the middle."""
    tensor = Tensor((1,), lambda: pytest.fail("is read"))
    given = {
        "visual._orig_mod.layer.0._checkpoint_wrapped_module.ln_1.bias": tensor,
        "_fsdp_wrapped_module.text._fsdp_wrapped_module.proj": tensor,
        "my_orig_mod.x": tensor,
        "a.module.x": tensor,
    }
    assert list(unwrapped(given, "x")) == [
        "visual.layer.0.ln_1.bias",
        "text.proj",
        "my_orig_mod.x",
        "a.module.x",
    ]
    with pytest.raises(
        UserError, match=r"holds a\.b twice, once of them as module\.a\.b"
    ):
        unwrapped({"a.b": tensor, "module.a.b": tensor}, "x")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("transformerClip.resblocks.0.ln_1.weight", "CLIP4Clip's seqTransf"),
        ("module.frame_position_embeddings.weight", "CLIP4Clip's seqTransf"),
        ("lstm_visual.weight_ih_l0", "CLIP4Clip's seqLSTM"),
        ("cross.embeddings.position_embeddings.weight", "CLIP4Clip's tightTransf"),
        ("mit.encoder.layers.0.layer_norm1.weight", "X-CLIP"),
        ("visual.attn_pool.query", "pools by several queries"),
        ("text_decoder.ln_1.weight", "a captioner"),
    ],
)
def test_other_models_are_called_what_they_are(name, says, tmp_path):
    state = {f"clip.{k}": x for k, x in torch_clip.random_state().items()}
    torch.save({**state, name: torch.zeros(3)}, tmp_path / "model.bin")
    with pytest.raises(UserError, match=f"{says}.*not supported") as error:
        convert(tmp_path / "model.bin", tmp_path / "out", "huggingface")
    assert name.removeprefix("module.") in str(error.value)
    assert "\n" not in str(error.value)


def test_clip4clips_mean_pooling_is_a_clip():
    """Negative control: without the temporal Transformer it is one."""
    state = torch_clip.random_state()
    tensors = {f"clip.{k}": tensor_of(x.numpy()) for k, x in state.items()}
    assert recognise(tensors, "x").format == "modelscope"
