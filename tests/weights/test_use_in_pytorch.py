"""The PyTorch example and this project compute the same features."""

import dataclasses
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_clip import SMALL, folder_of, named
from tiers import by_hand_except
from tuned_models import FRAMES, tuned_file

import vop_jax
from data_pipelines.console.errors import UserError
from vop_jax.model.clip.sizes import FrameRecipe, TextSize, VisionSize
from vop_jax.model.methods import METHODS
from vop_jax.model.prompts.config import BEHIND
from vop_jax.weights.clip_export import convert

EXAMPLE = Path(__file__).parents[2] / "examples/use_in_pytorch.py"
# Other activations, widths, depths, heads and pixels.
OTHER = dataclasses.replace(
    SMALL,
    vision=VisionSize(64, 3, 4, 128, "gelu"),
    text=TextSize(64, 2, 2, 96, "gelu"),
    image_size=24,
    patch_size=8,
    frames=FrameRecipe(mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.3, 0.4)),
)
ADDING = [name for name, row in METHODS.items() if "prompts/.*" in row.trained]
# What the file refuses.
UNKNOWN = {
    name
    for name, row in METHODS.items()
    if row.fusion or row.global_length or row.merging or row.adapter == BEHIND
}
KNOWN = [name for name in ADDING if name not in UNKNOWN]
CHANGED = {
    "bias": ("vision/layers/mlp/fc_1/bias", "text/ln_final/bias"),
    "proj": ("vision/projection", "text/projection"),
}


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("clips")
    sizes = {"small": SMALL, "other": OTHER}
    return {name: folder_of(size, made / name) for name, size in sizes.items()}


def captions(size, lengths):
    """Random ids between the start and the EOT token, padded with 0."""
    rng = np.random.default_rng(0)
    ids = np.zeros((len(lengths), 14), np.int64)
    for row, length in zip(ids, lengths, strict=True):
        words = rng.integers(1, size.vocabulary - 2, length)
        row[: length + 2] = [size.eos_id - 1, *words, size.eos_id]
    return ids


def differences(ours, theirs):
    """The largest difference of the features of videos and of those of texts."""
    size = ours.backbone.size
    shape = (2, FRAMES, size.image_size, size.image_size, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ids = captions(size, (1, 5, 12))
    pairs = [
        (ours.encode_videos(frames), theirs.encode_videos(torch.from_numpy(frames))),
        (ours.encode_texts(ids), theirs.encode_texts(torch.from_numpy(ids))),
    ]
    assert all(ours.shape == theirs.shape for ours, theirs in pairs)
    return [float(np.abs(ours - theirs.numpy()).max()) for ours, theirs in pairs]


def prepared(folder, method, path):
    """A folder for PyTorch, by the converter."""
    tuned = tuned_file(path / "tuned.safetensors", method, folder)
    source = path / "source"
    source.mkdir()
    for file in (*folder.iterdir(), tuned):
        (source / file.name).symlink_to(file)
    convert(source, path / "for_torch", "torch")
    return path / "for_torch"


def test_vop_fc_is_the_same_in_pytorch(example, folders, tmp_path):
    folder = prepared(folders["other"], "vop_fc", tmp_path)
    ours, theirs = vop_jax.load(folder), example["TunedClip"](folder)
    assert max(differences(ours, theirs)) < 1e-5
    # Negative control: of another order of the frames, and of other parameters.
    frames = torch.randint(0, 256, (1, FRAMES, 24, 24, 3), dtype=torch.uint8)
    right = theirs.encode_videos(frames)
    assert (theirs.encode_videos(frames.flip(1)) - right).abs().max() > 1e-3
    other = tuned_file(tmp_path / "other.safetensors", "vop_fc", folder, seed=1)
    changed = example["TunedClip"](folder, other).encode_videos(frames)
    assert (changed - right).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("backbone", by_hand_except(["small", "other"], "other"))
@pytest.mark.parametrize("method", KNOWN)
def test_every_method_is_the_same_in_pytorch(
    example, folders, tmp_path, method, backbone
):
    folder = prepared(folders[backbone], method, tmp_path)
    ours, theirs = vop_jax.load(folder), example["TunedClip"](folder)
    assert max(differences(ours, theirs)) < 1e-5


def test_what_it_does_not_know_is_refused(example, folders, tmp_path):
    assert {"ivfusion", "dgl_linear", "mv_adapter", "tempme"} <= UNKNOWN
    folder = prepared(folders["small"], "dgl_linear", tmp_path)
    with pytest.raises(ValueError, match="this file does not know: global_prompts"):
        example["TunedClip"](folder)
    file = tuned_file(tmp_path / "mv.safetensors", "mv_adapter", folders["small"])
    with pytest.raises(ValueError, match=r"this file does not know: adapters\."):
        example["TunedClip"](folders["small"], file)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", by_hand_except(["small", "other"], "other"))
@pytest.mark.parametrize("method", CHANGED)
def test_tuned_weights_of_clip_are_the_same_in_pytorch(
    example, folders, tmp_path, method, backbone
):
    folder, changed = folders[backbone], CHANGED[method]
    file = tuned_file(tmp_path / "tuned.safetensors", method, folder, changed)
    ours = vop_jax.load(folder, tuned=file)
    assert max(differences(ours, example["TunedClip"](folder, file))) < 1e-5


@pytest.mark.slow
def test_lora_stays_beside_the_weights(folders, tmp_path):
    folder = prepared(folders["small"], "vop_lora", tmp_path)
    kept, made = named(folders["small"]), named(folder)
    assert kept.keys() == made.keys()
    assert all(np.array_equal(value, made[name]) for name, value in kept.items())
    again = vop_jax.load(folder)
    assert again.encoder.prompt_config.lora_rank == METHODS["vop_lora"].lora_rank


def test_what_the_example_does_not_know_is_refused(example, folders, tmp_path):
    tuned = tuned_file(tmp_path / "tuned.safetensors", "vop", folders["small"])
    from vop_jax.weights.tuned import read_tuned, write_tuned

    tensors, metadata = read_tuned(tuned)
    metadata.pop("format")
    other = tmp_path / "other.safetensors"
    write_tuned(other, tensors, metadata | {"text_layout": "modelscope"})
    with pytest.raises(ValueError, match="a place that this file does not know"):
        example["TunedClip"](folders["small"], other)
    write_tuned(other, {**tensors, "x.weight": np.zeros(2, np.float32)}, metadata)
    with pytest.raises(
        ValueError, match=r"weights that this file does not know: x\.weight"
    ):
        example["TunedClip"](folders["small"], other)
    source = tmp_path / "source"
    source.mkdir()
    for file in folders["small"].iterdir():
        (source / file.name).symlink_to(file)
    write_tuned(source / other.name, tensors, metadata | {"text_layout": "modelscope"})
    (source / other.name).rename(source / "tuned.safetensors")
    with pytest.raises(UserError, match="use --to=modelscope"):
        convert(source, tmp_path / "out", "torch")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_example_runs_from_its_command_line(tmp_path, monkeypatch, capsys):
    from vop_jax.weights.locate import BACKBONE

    folder = prepared(BACKBONE, "vop_fc", tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 48, 48, 3), np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    texts = ["a red circle", "a small green square moves up"]
    given = [str(EXAMPLE), str(folder), *texts, f"--frames={tmp_path}/frames.npy"]
    monkeypatch.setattr(sys, "argv", given)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    rows = [x.split("\t") for x in capsys.readouterr().out.splitlines()[-2:]]
    model = vop_jax.load(folder)
    right = model.encode_texts(texts) @ model.encode_videos(frames).T
    assert [row[0] for row in rows] == texts
    np.testing.assert_allclose([[*map(float, x[1:])] for x in rows], right, atol=1e-4)


@pytest.mark.parametrize("arguments", [["nope", "x"], ["small", "x", "--frames=nope"]])
def test_a_path_that_does_not_exist_is_one_line(
    example, folders, arguments, monkeypatch
):
    place = str(folders.get(arguments[0], arguments[0]))
    monkeypatch.setattr(sys, "argv", ["use_in_pytorch.py", place, *arguments[1:]])
    with pytest.raises(SystemExit) as ended:
        example["main"]()
    assert "; pass " in str(ended.value)
    assert "\n" not in str(ended.value)
