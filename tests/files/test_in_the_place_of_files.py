"""What stands in the place of a model's files, and numbers that no model has."""

import io
import json
import os
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch

from data_pipelines.console.errors import UserError
from data_pipelines.files import regular_files
from data_pipelines.files.json_files import described, read_bytes
from vop_jax.model.clip.sizes import FrameRecipe
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.study.grid import CellResults, run_once
from vop_jax.training.config import check_config, default_values
from vop_jax.weights.backbone import load_backbone
from vop_jax.weights.clip_export import convert
from vop_jax.weights.locate import BACKBONE
from vop_jax.weights.open_clip_config import open_clip_says
from vop_jax.weights.preprocessing import stated_frames
from vop_jax.weights.tensors import Weights, open_weights
from vop_jax.weights.torch_reader import TorchFile


@pytest.fixture
def clip(tmp_path):
    return shutil.copytree(BACKBONE, tmp_path / "clip")


def replace(folder, **tensors):
    path = folder / "model.safetensors"
    named = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(named | tensors, path)


@pytest.mark.parametrize("value", [11.0, 89.0, 1e30, -1e30, -104.0])
def test_a_scale_whose_exponential_is_no_factor_is_refused(clip, tmp_path, value):
    replace(clip, logit_scale=np.array(value, np.float32))
    for read in (load_backbone, lambda x: convert(x, tmp_path / "out", "huggingface")):
        with pytest.raises(UserError, match=r"logit_scale is .*; it must be between"):
            read(clip)
    assert not (tmp_path / "out").exists()


def test_a_scale_of_several_numbers_is_refused(clip):
    replace(clip, logit_scale=np.ones(2, np.float32))
    with pytest.raises(UserError, match=r"logit_scale has shape .2.; .* one number"):
        load_backbone(clip)


PLACES = {
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer.json", "special_tokens_map.json", "tokenizer_config.json"),
        *("preprocessor_config.json", "processor_config.json", "tuned.safetensors"),
    ],
)
def test_what_is_not_a_file_is_not_passed_over(clip, tmp_path, name, what):
    (clip / name).unlink(missing_ok=True)
    PLACES[what](clip / name)
    with pytest.raises(UserError, match=name):
        convert(clip, tmp_path / "out", "huggingface")
    assert not (tmp_path / "out").exists()


def test_a_file_that_has_nothing_to_give_yet_is_not_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("{}")
    monkeypatch.setattr(
        regular_files.os, "fdopen", lambda number, _: Empty(number, "rb")
    )
    with pytest.raises(OSError, match="no content of its own"):
        read_bytes(path)


class Empty(io.FileIO):
    def read(self, size=-1):
        return None


def test_an_address_space_is_no_file_of_weights():
    from contextlib import ExitStack
    from pathlib import Path

    with ExitStack() as stack, pytest.raises(UserError, match="cannot be read"):
        open_weights(Path("/proc/self/mem"), stack)


@pytest.mark.parametrize("key", ["do_resize", "do_rescale", "do_normalize"])
@pytest.mark.parametrize("value", ["false", 0, [], {}])
def test_a_step_of_preprocessing_is_true_or_false(tmp_path, key, value):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({key: value}))
    with pytest.raises(UserError, match=f"{key} is .*; it must be true or false"):
        stated_frames(tmp_path, 32, FrameRecipe())


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "clip_norm"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_numbers_of_the_optimizer_are_finite_and_not_negative(name, value):
    values = default_values()
    values["optimizer"][name] = value
    with pytest.raises(UserError, match=f"config.optimizer.{name} "):
        check_config(values)


@pytest.mark.parametrize("value", [1.0, -0.1, float("nan")])
def test_a_decay_of_moments_is_less_than_one(value):
    values = default_values()
    values["optimizer"]["beta2"] = value
    with pytest.raises(UserError, match=r"config\.optimizer\.beta2 is .* below 1$"):
        check_config(values)


def test_tensors_of_one_storage_read_it_once(tmp_path, monkeypatch):
    whole = torch.arange(1 << 18, dtype=torch.float32)
    path = tmp_path / "shared.pt"
    torch.save({f"t{i}": whole[i : i + 4] for i in range(500)}, path)
    reads = []
    with TorchFile(path) as file:
        read = file._records.read
        monkeypatch.setattr(
            file._records, "read", lambda name: reads.append(name) or read(name)
        )
        for i in range(500):
            np.testing.assert_array_equal(file.read(f"t{i}"), np.arange(i, i + 4))
    assert len(reads) == 1


def test_large_storages_are_not_kept(tmp_path):
    path = tmp_path / "large.pt"
    torch.save({f"t{i}": torch.full((3 << 20,), float(i)) for i in range(3)}, path)
    with TorchFile(path) as file:
        for i in (0, 1, 0, 2):
            assert file.read(f"t{i}")[-1] == i
            assert sum(map(len, file._held.values())) <= 16 << 20


RECALLS = {"R@1": 1.0, "R@5": 2, "R@10": 3.0}
WAYS = {"t2v": RECALLS, "v2t": RECALLS}
CELL = WAYS | {
    "validation": WAYS,
    "trainable_parameters": 3,
    "learning_rate": 1e-3,
    "seconds_per_epoch": 0.5,
}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"t2v": {}}, "t2v lacks the key 'R@1'"),
        ({"t2v": RECALLS | {"R@1": float("nan")}}, r"t2v\['R@1'\] is NaN"),
        ({"v2t": RECALLS | {"R@5": 101}}, r"v2t\['R@5'\] is 101; .* at most 100"),
        ({"learning_rate": "1"}, "learning_rate is .1.; it must be a number"),
        ({"trainable_parameters": -1}, "trainable_parameters is -1"),
        ({"validation": None}, "validation is null; it must be an object"),
        ({"twins": {"t2v": 50.0}}, "twins lacks the key 'v2t'"),
    ],
)
def test_figures_of_a_studys_cell_are_checked(tmp_path, monkeypatch, changed, says):
    described(CELL, CellResults, "it")
    folder = RunFolder(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(CELL | changed))
    monkeypatch.setattr(RunFolder, "check", lambda *_, **__: None)
    config = check_config(default_values())
    with pytest.raises(UserError, match=says):
        run_once(config, folder, None)


def test_a_run_without_a_backbone_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"method": "vop"}')
    with pytest.raises(UserError, match="lacks the key 'backbone'"):
        convert(tmp_path, tmp_path / "out", "huggingface")


def test_sizes_that_no_tensor_fills_take_no_memory(clip):
    """A header of two tensors, and a configuration of petabytes."""
    path = clip / "model.safetensors"
    named = safetensors.numpy.load_file(path)
    name = "vision_model.embeddings.patch_embedding.weight"
    patches = np.zeros((16_384, *named[name].shape[1:]), np.float32)
    kept = {"logit_scale": named["logit_scale"], name: patches}
    safetensors.numpy.save_file(kept, path)
    config = json.loads((clip / "config.json").read_text())
    for tower in ("vision_config", "text_config"):
        config[tower] |= {"hidden_size": 16_384, "num_hidden_layers": 1_024}
        config[tower] |= {"intermediate_size": 131_072, "num_attention_heads": 1_024}
    (clip / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"is not this model: missing .* more"):
        load_backbone(clip)


def test_one_storage_is_not_every_layer_of_a_model(tmp_path):
    """A small file whose tensors share a storage would fill RAM and the disk."""
    one = torch.ones(64)
    for count, fits in ((4, True), (5, False)):
        torch.save({f"a{i}": one for i in range(count)}, tmp_path / "file.pt")
        if fits:
            with TorchFile(tmp_path / "file.pt") as file:
                assert len(file.tensors) == count
            continue
        with pytest.raises(UserError, match="they share what they hold"):
            TorchFile(tmp_path / "file.pt")


def test_a_folder_that_may_not_be_listed_is_one_line(clip, monkeypatch):
    (clip / "model.safetensors").unlink()

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(clip), "iterdir", denied)
    with pytest.raises(UserError, match=r"clip cannot be read \(Permission denied\)"):
        load_backbone(clip)


@pytest.mark.parametrize("name", ["/" + "x" * 300, "a/" * 3000, "a\0b"])
def test_what_no_path_can_be_is_no_model(name, tmp_path):
    with pytest.raises(UserError):
        load_backbone(name)
    with pytest.raises(UserError, match="--output cannot be used"):
        convert(BACKBONE, tmp_path / name.lstrip("/"), "huggingface")


def test_open_clip_s_heads_divide_its_width(clip):
    config = {
        "model_cfg": {
            "vision_cfg": {"layers": 4, "width": 64, "head_width": 128},
            "text_cfg": {"heads": 2},
        }
    }
    weights = clip / "open_clip_model.safetensors"
    weights.touch()
    path = clip / "open_clip_config.json"
    for width in (128, 48):
        config["model_cfg"]["vision_cfg"]["head_width"] = width
        path.write_text(json.dumps(config))
        with pytest.raises(UserError, match=f"head_width is {width}; it must divide"):
            open_clip_says(clip, Weights(weights, (weights,), {}))
    # What stands in its place is not passed over.
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"open_clip_config\.json"):
        open_clip_says(clip, Weights(weights, (weights,), {}))
