"""DGL's released checkpoints: read with their prompts, and the features of torch."""

import json

import numpy as np
import pytest
import safetensors.numpy
import torch
import torch_clip
import torch_dgl

from data_pipelines.console.errors import UserError
from vop_jax.api import load
from vop_jax.weights.clip_export import convert

FORMS = {"linear": "dgl_linear", "transformer": "dgl_transformer"}


@pytest.fixture(scope="module")
def state():
    return torch_clip.random_state()


def inputs(frames=torch_dgl.FRAMES, lengths=(3, 9, 40, 77)):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, frames, 32, 32, 3), np.uint8)
    ids = np.zeros((len(lengths), 77), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = [49406, *rng.integers(1, 49000, length - 2), 49407]
    return pixels, ids


def convert_to(folder, whole):
    """Converts a file of that content; gives the output's folder."""
    torch.save(whole, folder / "ckpt.pth.tar")
    convert(folder / "ckpt.pth.tar", folder / "out", "huggingface")
    return folder / "out"


@pytest.fixture(scope="module")
def released(state, tmp_path_factory):
    """A released checkpoint of each form: its tensors, and what is made of it."""
    found = {}
    for form in FORMS:
        prompts = torch_dgl.random_prompts(form)
        # Where it is there, the released model does not use it.
        unused = {"visual.frame_embedding": torch.randn(torch_dgl.FRAMES, 1, 128)}
        whole = torch_dgl.checkpoint(state, prompts | unused)
        folder = convert_to(tmp_path_factory.mktemp(form), whole)
        found[form] = state | prompts, folder
    return found


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_released_checkpoint_has_the_features_of_torch(released, form):
    named, folder = released[form]
    model = load(folder)
    frames, ids = inputs()
    video, text = (
        torch_dgl.encode_videos(named, frames),
        torch_dgl.encode_texts(named, ids),
    )
    np.testing.assert_allclose(model.encode_videos(frames), video, atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(ids), text, atol=1e-5)
    # The comparison can fail: the rows behind the words are read by all others.
    if form == "transformer":
        table = named["unified_prompt_embedding.weight"].clone()
        table[torch_dgl.PROMPTS, :9] += 5
        moved = named | {"unified_prompt_embedding.weight": table}
        assert (torch_dgl.encode_videos(moved, frames) - video).abs().max() > 1e-4


@pytest.mark.slow
def test_a_linear_one_fits_any_number_of_frames_and_a_transformer_its_own(released):
    linear, transformer = (load(released[x][1]) for x in FORMS)
    assert (linear.num_frames, transformer.num_frames) == (12, torch_dgl.FRAMES)
    linear.check_frames(5)
    with pytest.raises(UserError, match="belong to 3 frame positions"):
        transformer.check_frames(5)


def test_the_postfix_of_a_linear_one_is_kept(released):
    theirs, folder = released["linear"]
    named = safetensors.numpy.load_file(folder / "tuned.safetensors")
    layer = "postfix_text_prompt_proj_layer"
    np.testing.assert_array_equal(
        named["text_postfix.weight"], theirs[f"{layer}.weight"]
    )
    np.testing.assert_array_equal(
        named["global_prompts"], theirs["visual.prompt_embeddings"][0]
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_metadata_says_which_method_it_is(released, form):
    with safetensors.safe_open(
        released[form][1] / "tuned.safetensors", "numpy"
    ) as file:
        metadata = json.loads(file.metadata()["vop_jax"])
    frames = {"linear": 12, "transformer": torch_dgl.FRAMES}[form]
    assert metadata["num_frames"] == frames
    assert metadata["method"] == FORMS[form]
    assert metadata["split_layer"] == torch_clip.VISION_LAYERS


@pytest.mark.parametrize(
    ("form", "change", "says"),
    [
        ("linear", {"visual_prompt_embedding": None}, "missing visual_prompt_emb"),
        ("linear", {"prefix_text_prompt_proj_layer.bias": None}, "missing prefix_text"),
        ("transformer", {"unified_prompt_mlp.c_fc.bias": None}, "missing unified_pro"),
        ("linear", {"visual.prompt_embeddings": torch.zeros(4, 128)}, "has shape"),
        (
            "transformer",
            {"unified_prompt_embedding.weight": torch.zeros(())},
            r"unified_prompt_embedding.weight has shape \[\]",
        ),
        ("linear", {"extra.weight": torch.zeros(3)}, "say: unexpected extra.weight$"),
        (
            "linear",
            {"visual.prompt_embeddings": torch.zeros(2, 4, 128)},
            r"visual.prompt_embeddings has shape \[2, 4, 128\]",
        ),
        (
            "linear",
            {"visual_prompt_embedding": torch.zeros(1, 4, 128)},
            r"/ckpt\.pth\.tar: visual_prompt_embedding has shape \[1, 4, 128\], which "
            "does not fit the CLIP and the prompts beside it; fetch the file again",
        ),
        (
            "transformer",
            {"unified_prompt_embedding.weight": torch.zeros(18, 3 * 128)},
            r": unified_prompt_embedding\.weight has shape \[18, 384\], which does",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "with",
)
def test_what_does_not_fit_is_one_line(state, tmp_path, form, change, says):
    named = torch_dgl.random_prompts(form) | change
    named = {name: value for name, value in named.items() if value is not None}
    with pytest.raises(UserError, match=says) as error:
        convert_to(tmp_path, torch_dgl.checkpoint(state, named))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_tensor_beside_the_clip_is_refused(state, tmp_path):
    whole = torch_dgl.checkpoint(state, torch_dgl.random_prompts("linear"))
    whole["state_dict"]["module.similarity.weight"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"holds similarity\.weight, which no released"):
        convert_to(tmp_path, whole)


def test_other_formats_have_no_place_for_it(released, tmp_path):
    for target in ("openai", "modelscope"):
        with pytest.raises(UserError, match="use --to=huggingface"):
            convert(released["linear"][1], tmp_path / target, target)


def test_more_frames_than_any_model_has_are_refused(state, tmp_path):
    prompts = torch_dgl.random_prompts("transformer")
    table = prompts["unified_prompt_embedding.weight"]
    rows = prompts["visual.prompt_embeddings"].shape[1] * (2 + 4_097)
    many = {"unified_prompt_embedding.weight": torch.zeros(rows, table.shape[1])}
    torch.save(torch_dgl.checkpoint(state, prompts | many), tmp_path / "dgl.pth")
    with pytest.raises(UserError, match=r"dgl\.pth: its metadata.*at most 4096"):
        convert(tmp_path / "dgl.pth", tmp_path / "out", "huggingface")
    assert not (tmp_path / "out").exists()
