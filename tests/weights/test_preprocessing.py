"""The frames that a model's folder states: followed, or refused in one line."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from small_clip import SMALL, copied, folder_of
from written_films import write

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.frames import decode_uniform
from data_pipelines.decoding.images import resize_frame
from data_pipelines.decoding.resizing import Resizing
from vop_jax.api import load
from vop_jax.model.clip.sizes import PIXEL_DEVIATION, PIXEL_MEAN, FrameRecipe
from vop_jax.training.config import default_values
from vop_jax.weights.backbone import load_backbone
from vop_jax.weights.clip_export import convert
from vop_jax.weights.preprocessing import frames_file


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return folder_of(SMALL, tmp_path_factory.mktemp("small") / "clip")


GOOD = {
    "image_mean": list(PIXEL_MEAN),
    "image_std": list(PIXEL_DEVIATION),
    "do_normalize": True,
    "do_resize": True,
    "do_center_crop": True,
    "resample": 3,
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
    "rescale_factor": 1 / 255,
}
PREPROCESSOR = "preprocessor_config.json"
LOADERS = {
    "load": load,
    "backbone=": load_backbone,
    "convert": lambda folder: convert(folder, folder.parent / "out", "huggingface"),
}


def with_frames(small, path, values, name=PREPROCESSOR):
    folder = copied(small, path)
    (folder / name).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_mean": [0.5, 0.5]}, r"pixel statistics \[0\.5, 0\.5\]"),
        ({"image_mean": [0.5, 0.5, True]}, "pixel statistics"),
        ({"image_mean": [127, 127, 127]}, "pixel statistics"),
        ({"image_std": [0.0, 0.5, 0.5]}, "pixel statistics"),
        ({"image_mean": "x" * 1000}, "pixel statistics 'xxx"),
        ({"do_normalize": False}, "not scaled"),
        ({"do_rescale": False}, "not scaled"),
        ({"rescale_factor": 1 / 127.5}, "not scaled"),
        ({"crop_size": 64, "size": 64}, "64 pixels, but the model takes 32"),
        ({"do_center_crop": False, "size": {"height": 48, "width": 48}}, "48 pixels"),
    ],
)
def test_other_frames_are_refused_wherever_they_enter(
    loader, change, says, small, tmp_path
):
    folder = with_frames(small, tmp_path / "clip", GOOD | change)
    with pytest.raises(UserError, match=says) as error:
        LOADERS[loader](folder)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        (PREPROCESSOR, GOOD, ""),
        # Of 2021, rounded, and with nothing in it.
        (PREPROCESSOR, GOOD | {"size": 32, "crop_size": 32}, ""),
        (PREPROCESSOR, GOOD | {"image_mean": [0.4815, 0.4578, 0.4082]}, ""),
        (PREPROCESSOR, {}, ""),
        (PREPROCESSOR, GOOD | {"resample": 0}, r"by another filter \(0\)"),
        (PREPROCESSOR, GOOD | {"resample": True}, r"by another filter \(True\)"),
        (PREPROCESSOR, GOOD | {"size": {"shortest_edge": 40}}, "resized to 40 pixels"),
        ("processor_config.json", {"image_processor": GOOD}, ""),
        (
            "processor_config.json",
            {"image_processor": GOOD | {"resample": 1}},
            "filter",
        ),
        ("open_clip_config.json", {"preprocess_cfg": {"size": 32}}, ""),
    ],
)
def test_frames_that_differ_a_little_are_a_warning(
    name, values, says, small, tmp_path, capsys
):
    folder = with_frames(small, tmp_path / "clip", values, name)
    assert load_backbone(folder).size.frames == FrameRecipe()
    said = " ".join(capsys.readouterr().err.split())
    assert bool(said) == bool(says)
    assert re.search(says, said)


HALF = (0.5, 0.5, 0.5)
SQUASH = {"do_center_crop": False, "size": {"height": 32, "width": 32}}
STATED = [
    (PREPROCESSOR, GOOD | {"resample": 2}, FrameRecipe(filter="bilinear")),
    (PREPROCESSOR, GOOD | SQUASH, FrameRecipe("squash")),
    (
        PREPROCESSOR,
        # As SigLIP's folders have it, without a word on the crop.
        {"size": SQUASH["size"], "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        FrameRecipe("squash", mean=HALF, deviation=HALF),
    ),
    (
        "open_clip_config.json",
        {"preprocess_cfg": {"resize_mode": "squash", "interpolation": "bilinear"}},
        FrameRecipe("squash", "bilinear"),
    ),
]


@pytest.mark.parametrize("loader", ["load", "backbone=", "convert"])
@pytest.mark.parametrize(("name", "values", "frames"), STATED)
def test_the_frames_that_a_folder_states_are_those_of_the_model(
    loader, name, values, frames, small, tmp_path, capsys
):
    folder = with_frames(small, tmp_path / "clip", values, name)
    found = LOADERS[loader](folder)
    if loader == "convert":
        found = load_backbone(tmp_path / "out")
    if loader == "load":
        found = found.backbone
    assert found.size.frames == frames
    assert "warning" not in capsys.readouterr().err


def test_of_two_files_the_first_is_followed(small, tmp_path, capsys):
    folder = with_frames(small, tmp_path / "clip", GOOD)
    values = {"preprocess_cfg": {"resize_mode": "squash", "size": 32}}
    (folder / "open_clip_config.json").write_text(json.dumps(values))
    assert load_backbone(folder).size.frames == FrameRecipe()
    said = " ".join(capsys.readouterr().err.split())
    assert "open_clip_config.json states other frames (resize) than" in said
    assert said.count("warning") == 1


@pytest.mark.parametrize("mode", ["longest", 3, ["squash"]])
def test_frames_with_a_border_are_refused(mode, small, tmp_path):
    values = {"preprocess_cfg": {"resize_mode": mode}}
    folder = with_frames(small, tmp_path / "clip", values, "open_clip_config.json")
    with pytest.raises(UserError, match="resize_mode is"):
        load_backbone(folder)


@pytest.mark.parametrize(("name", "values", "frames"), STATED)
def test_transformers_reads_what_is_written(name, values, frames):
    """Its processor of that class makes these frames."""
    del name, values
    transformers = pytest.importorskip("transformers")
    stated = frames_file(32, frames)
    kind = getattr(transformers, f"{stated['image_processor_type']}Pil")
    made = kind(**{k: x for k, x in stated.items() if k != "image_processor_type"})
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    theirs = made(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"]
    ours = resize_frame(pixels, 32, Resizing(frames.resize, frames.filter)) / 255
    ours = (ours - np.array(frames.mean)) / np.array(frames.deviation)
    np.testing.assert_allclose(np.moveaxis(theirs[0], 0, -1), ours, atol=1e-6)


def test_files_are_encoded_with_the_models_own_frames(small, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, 50, 90, 3), np.uint8)
    features = {}
    for name, change in (("crop", {}), ("squash", SQUASH)):
        model = load(with_frames(small, tmp_path / name, GOOD | change))
        how = Resizing(name)
        square = np.stack([resize_frame(x, 32, how) for x in frames[0]])[None]
        features[name] = model.encode_videos(frames)
        np.testing.assert_array_equal(features[name], model.encode_videos(square))
        path = write(tmp_path / f"{name}.mp4", size=(50, 90))
        read = model.read_video(path)
        full = decode_uniform(path, len(read)).frames
        np.testing.assert_array_equal(read, [resize_frame(x, 32, how) for x in full])
        features[f"{name} id"] = model.fingerprint
    assert not np.allclose(features["crop"], features["squash"])
    # An index of one is not one of the other.
    assert features["crop id"] != features["squash id"]


def test_a_run_looks_at_its_backbones_frames(small, tmp_path):
    from vop_jax.runtime.run_folder import RunFolder
    from vop_jax.training.config import check_config
    from vop_jax.training.run import assemble

    folder = with_frames(small, tmp_path / "clip", GOOD | {"image_mean": [3, 3, 3]})
    values = default_values("vop", "demo", str(folder))
    with pytest.raises(UserError, match="pixel statistics"):
        assemble(check_config(values), RunFolder(tmp_path / "run"))
