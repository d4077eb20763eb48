"""Checkpoints of every format: the features of torch, there and back to the bit."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import torch_clip
from tiers import slow_except
from torch import nn

import vop_jax
from data_pipelines.console.errors import UserError
from vop_jax.api import load
from vop_jax.weights.clip_export import convert

ROOT = Path(__file__).parents[2]
PROMPTS = 8


@pytest.fixture(scope="module")
def state():
    return torch_clip.random_state()


class Node(nn.Module):
    """A module tree of parameters alone."""

    def forward(self, x):
        return x


def module_of(state):
    """A module whose state dictionary has these names."""
    root = Node()
    for name, value in state.items():
        *path, leaf = name.split(".")
        node = root
        for part in path:
            if not hasattr(node, part):
                node.add_module(part, Node())
            node = getattr(node, part)
        node.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    return root


def hugging_face(state, folder):
    """The same CLIP in transformers' own class and file."""
    import transformers

    vision = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision |= {"intermediate_size": 512, "image_size": 32, "patch_size": 16}
    text = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    text |= {"intermediate_size": 256, "vocab_size": 49408}
    text |= {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 0}
    config = transformers.CLIPConfig(
        vision_config=vision, text_config=text, projection_dim=24
    )
    model = transformers.CLIPModel(config)
    named = {}
    for name, value in state.items():
        name = name.replace(
            "visual.transformer.resblocks", "vision_model.encoder.layers"
        )
        name = name.replace("transformer.resblocks", "text_model.encoder.layers")
        for theirs, ours in {
            ".ln_1.": ".layer_norm1.",
            ".ln_2.": ".layer_norm2.",
            ".attn.out_proj": ".self_attn.out_proj",
            ".mlp.c_fc": ".mlp.fc1",
            ".mlp.c_proj": ".mlp.fc2",
            "visual.ln_pre": "vision_model.pre_layrnorm",
            "visual.ln_post": "vision_model.post_layernorm",
            "ln_final": "text_model.final_layer_norm",
            "visual.class_embedding": "vision_model.embeddings.class_embedding",
            "visual.conv1": "vision_model.embeddings.patch_embedding",
            "token_embedding.": "text_model.embeddings.token_embedding.",
        }.items():
            name = name.replace(theirs, ours)
        whole = {
            "visual.positional_embedding": "vision_model.embeddings.position_embedding",
            "positional_embedding": "text_model.embeddings.position_embedding",
            "visual.proj": "visual_projection",
            "text_projection": "text_projection",
        }
        if name in whole:
            turned = value.T if "proj" in name else value
            named[f"{whole[name]}.weight"] = turned
        elif ".attn.in_proj_" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                named[name.replace("attn.in_proj_", f"self_attn.{letter}_proj.")] = part
        else:
            named[name] = value
    model.load_state_dict(named)
    model.save_pretrained(folder)
    return model


def modelscope(state, prompts):
    """A checkpoint as the authors' code saves it."""
    named = {f"clip.{name}": value for name, value in state.items()}
    named["visual_prompt_learner.visual_prompts"] = prompts["video_prompts"][:, None]
    for name, value in state.items():
        if name.startswith("visual."):
            named[f"image_encoder.{name.removeprefix('visual.')}"] = value
    named["text_prompt_learner.text_prompts"] = prompts["text_prompts"]
    for name, value in state.items():
        if not name.startswith("visual.") and name != "logit_scale":
            named[f"text_encoder.{name}"] = value
    return {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in named.items()}}


def random_prompts():
    torch.manual_seed(1)
    return {
        "text_prompts": torch.randn(torch_clip.TEXT_LAYERS, PROMPTS, 64),
        "video_prompts": torch.randn(torch_clip.VISION_LAYERS, PROMPTS, 128),
    }


def inputs(lengths=(3, 9, 40, 77), width=77):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 2, 32, 32, 3), np.uint8)
    ids = np.zeros((len(lengths), width), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = [49406, *rng.integers(1, 49000, length - 2), 49407]
    return frames, ids


OPEN_CLIP = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 128, "patch_size": 16},
        "text_cfg": {"context_length": 77, "width": 64, "heads": 1, "layers": 2},
    },
    "preprocess_cfg": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    },
}


def write(kind, state, folder):
    """Writes a source of a kind; gives its path and the flags it wants."""
    folder.mkdir()
    if kind == "torchscript":
        path = folder / "ViT.pt"
        sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
        extra = {name: torch.tensor(float(size)) for name, size in sizes.items()}
        with warnings.catch_warnings():
            # Deprecated for new models, but the published files are what they are.
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.script(module_of(state | extra)).save(str(path))
        return path, ""
    if kind == "state dictionary":
        torch.save(state, folder / "clip.pt")
        return folder / "clip.pt", ""
    if kind == "half precision":
        torch.save({k: x.half() for k, x in state.items()}, folder / "clip.pt")
        return folder / "clip.pt", ""
    if kind.startswith("hugging face"):
        model = hugging_face(state, folder)
        named = dict(model.state_dict())
        if kind.endswith("bin"):
            (folder / "model.safetensors").unlink()
            torch.save(named, folder / "pytorch_model.bin")
        if kind.endswith("shards"):
            (folder / "model.safetensors").unlink()
            model.save_pretrained(folder, max_shard_size="4MB")
            assert len(list(folder.glob("model-*.safetensors"))) > 1
        return folder, ""
    if kind == "open_clip safetensors":
        safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP))
        return folder, ""
    if kind == "open_clip bin, text tower apart":
        named = {
            name
            if name.startswith("visual.") or name == "logit_scale"
            else f"text.{name}": x
            for name, x in state.items()
        } | {"text.attn_mask": torch.zeros(77, 77)}
        torch.save(named, folder / "open_clip_pytorch_model.bin")
        return folder / "open_clip_pytorch_model.bin", "quick_gelu"
    assert kind == "open_clip training checkpoint"
    named = {f"module.{name}": value for name, value in state.items()}
    whole = {"epoch": 7, "name": "x", "state_dict": named, "optimizer": {"lr": 0.1}}
    torch.save(whole, folder / "epoch_7.pt")
    return folder / "epoch_7.pt", "gelu"


KINDS = {
    "torchscript": torch_clip.quick_gelu,
    "state dictionary": torch_clip.quick_gelu,
    "half precision": torch_clip.quick_gelu,
    "hugging face": torch_clip.quick_gelu,
    "hugging face bin": torch_clip.quick_gelu,
    "hugging face shards": torch_clip.quick_gelu,
    "open_clip safetensors": nn.functional.gelu,
    "open_clip bin, text tower apart": torch_clip.quick_gelu,
    "open_clip training checkpoint": nn.functional.gelu,
}


@pytest.mark.parametrize("kind", slow_except(KINDS, "torchscript", "hugging face"))
def test_features_equal_torch_and_the_way_back_is_exact(state, tmp_path, kind):
    path, activation = write(kind, state, tmp_path / "in")
    convert(path, tmp_path / "out", "huggingface", activation)
    if kind == "half precision":
        state = {name: value.half().float() for name, value in state.items()}
    model = load(tmp_path / "out")
    frames, ids = inputs()
    video = torch_clip.encode_videos(state, frames, KINDS[kind])
    text = torch_clip.encode_texts(state, ids, KINDS[kind])
    np.testing.assert_allclose(model.encode_videos(frames), video, atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(ids), text, atol=1e-5)
    convert(tmp_path / "out", tmp_path / "back", "openai")
    back = torch.load(tmp_path / "back" / "clip.pt", weights_only=True)
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert back[name].dtype == torch.float32
        assert torch.equal(back[name], value), name


def test_hugging_face_loads_what_is_written_without_a_word(state, tmp_path, capsys):
    import transformers

    path, _ = write("torchscript", state, tmp_path / "in")
    convert(path, tmp_path / "out", "huggingface")
    capsys.readouterr()
    transformers.logging.set_verbosity_warning()
    transformers.logging.disable_progress_bar()
    model, told = transformers.CLIPModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(told.values())
    assert capsys.readouterr().err == ""
    _, ids = inputs()
    with torch.no_grad():
        theirs = model.text_projection(
            model.text_model(torch.tensor(ids).long()).pooler_output
        )
    theirs = nn.functional.normalize(theirs, dim=-1)
    ours = load(tmp_path / "out").encode_texts(ids)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


# Read out past EOT in the padding, in the last prompts, and at the last token itself.
LENGTHS = (4, 20, 63, 65, 66, 68, 69)


@pytest.mark.slow
def test_the_released_vop_reads_as_the_authors_code_does(state, tmp_path):
    prompts = random_prompts()
    path = tmp_path / "VoP.pth"
    torch.save(modelscope(state, prompts), path)
    convert(path, tmp_path / "out", "huggingface")
    model = load(tmp_path / "out")
    assert model.metadata["text_layout"] == "modelscope"
    assert model.num_frames == 12
    frames, ids = inputs(LENGTHS, 69)
    video = torch_clip.encode_videos(state, frames, prompts=prompts["video_prompts"])
    text = torch_clip.encode_texts(state, ids, prompts=prompts["text_prompts"])
    np.testing.assert_allclose(model.encode_videos(frames), video, atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(ids), text, atol=1e-5)
    # One by one and trimmed, as a caption comes.
    for row, length, expected in zip(ids, LENGTHS, text, strict=True):
        ours = model.encode_texts(row[None, :length])
        np.testing.assert_allclose(ours[0], expected, atol=1e-5)

    convert(tmp_path / "out", tmp_path / "back", "modelscope")
    back = torch.load(tmp_path / "back" / "VoP_msrvtt9k.pth", weights_only=True)
    expected = {
        name.removeprefix("module."): value
        for name, value in modelscope(state, prompts)["state_dict"].items()
    }
    assert back["state_dict"].keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(back["state_dict"][name], value), name


def test_a_long_caption_keeps_its_end_in_front_of_the_prompts(state, tmp_path):
    pytest.importorskip("instant_clip_tokenizer")
    path = tmp_path / "VoP.pth"
    torch.save(modelscope(state, random_prompts()), path)
    convert(path, tmp_path / "out", "huggingface")
    (ids,) = load(tmp_path / "out").tokenizer(["word " * 100])
    assert ids.shape == (69,)
    assert ids[-1] == 49407


def test_the_released_layout_is_not_the_papers(state, tmp_path):
    """The comparison above can fail: the other layout gives other features."""
    prompts = random_prompts()
    torch.save(modelscope(state, prompts), tmp_path / "VoP.pth")
    convert(tmp_path / "VoP.pth", tmp_path / "out", "huggingface")
    tuned = tmp_path / "out" / "tuned.safetensors"
    with safetensors.safe_open(tuned, "numpy") as file:
        metadata = json.loads(file.metadata()["vop_jax"]) | {"text_layout": "prefix"}
    named = safetensors.numpy.load_file(tuned)
    safetensors.numpy.save_file(named, tuned, {"vop_jax": json.dumps(metadata)})
    _, ids = inputs(LENGTHS, 69)
    text = torch_clip.encode_texts(state, ids, prompts=prompts["text_prompts"])
    ours = load(tmp_path / "out").encode_texts(ids)
    assert np.abs(ours - text.numpy()).max(axis=1).min() > 0.01


def test_the_released_siblings_are_a_whole_clip(state, tmp_path):
    named = {f"clip.{name}": value for name, value in state.items()}
    torch.save({"state_dict": named}, tmp_path / "VoPSE.pth")
    convert(tmp_path / "VoPSE.pth", tmp_path / "out", "huggingface")
    assert not (tmp_path / "out" / "tuned.safetensors").exists()
    _, ids = inputs()
    text = torch_clip.encode_texts(state, ids)
    np.testing.assert_allclose(
        load(tmp_path / "out").encode_texts(ids), text, atol=1e-5
    )
    convert(tmp_path / "out", tmp_path / "back", "modelscope")
    back = torch.load(tmp_path / "back" / "VoPSE_msrvtt9k.pth", weights_only=True)
    assert all(torch.equal(back["state_dict"][k], v) for k, v in named.items())


def test_a_backbone_that_is_not_finite_is_not_loaded(state, tmp_path):
    hugging_face(state, tmp_path / "clip")
    path = tmp_path / "clip" / "model.safetensors"
    named = safetensors.numpy.load_file(path)
    name = "text_model.encoder.layers.0.mlp.fc1.bias"
    named[name][3] = np.nan
    safetensors.numpy.save_file(named, path)
    with pytest.raises(UserError, match=rf"model\.safetensors: {name} holds NaN"):
        load(tmp_path / "clip")


def test_features_that_are_not_finite_are_refused(state, tmp_path):
    """Weights that are finite, and too large for what comes of them."""
    large = state | {"text_projection": 1e38 * torch.sign(state["text_projection"])}
    torch.save(large, tmp_path / "clip.pt")
    convert(tmp_path / "clip.pt", tmp_path / "out", "huggingface")
    with pytest.raises(UserError, match="features of text 0 are not finite"):
        load(tmp_path / "out").encode_texts(inputs()[1])


def test_copies_that_differ_are_two_models(state, tmp_path):
    whole = modelscope(state, random_prompts())
    name = "module.text_encoder.ln_final.bias"
    whole["state_dict"][name] = whole["state_dict"][name] + 1
    torch.save(whole, tmp_path / "VoP.pth")
    with pytest.raises(UserError, match=r"ln_final\.bias differ"):
        convert(tmp_path / "VoP.pth", tmp_path / "out", "huggingface")


def test_an_activation_that_nothing_says_is_asked_for(state, tmp_path):
    path, _ = write("open_clip training checkpoint", state, tmp_path / "in")
    with pytest.raises(UserError, match="--activation=quick_gelu"):
        convert(path, tmp_path / "out", "huggingface")
    folder, _ = write("open_clip safetensors", state, tmp_path / "other")
    with pytest.raises(UserError, match="says gelu"):
        convert(folder, tmp_path / "out", "huggingface", "quick_gelu")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [5.0, 0.5, 0.5]
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="pixel statistics"):
        convert(folder, tmp_path / "out", "huggingface")


def test_targets_that_have_no_place_for_it(state, tmp_path):
    torch.save(modelscope(state, random_prompts()), tmp_path / "VoP.pth")
    with pytest.raises(UserError, match="no place for text_prompts"):
        convert(tmp_path / "VoP.pth", tmp_path / "out", "openai")
    demo = ROOT / "vop_jax" / "demo" / "backbone"
    with pytest.raises(UserError, match="2 heads"):
        convert(demo, tmp_path / "out", "openai")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("")
    with pytest.raises(UserError, match="exists already"):
        convert(demo, tmp_path / "out", "huggingface")


def test_the_package_gives_its_surface_lazily():
    code = (
        "import sys, vop_jax; assert 'jax' not in sys.modules; "
        "vop_jax.load; vop_jax.retrieval_metrics; "
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
    assert set(vop_jax.__all__) >= {"Model", "load", "retrieval_metrics"}
    assert all(getattr(vop_jax, name) for name in vop_jax.__all__)
