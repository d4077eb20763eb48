"""Whether a CLIP was trained with the preprocessing used here."""

import json
import re

import pytest
from small_clip import SMALL, copied, folder_of

from data_pipelines.console.errors import UserError
from vop_jax.api import load
from vop_jax.model.clip.sizes import PIXEL_DEVIATION, PIXEL_MEAN
from vop_jax.training.config import default_values
from vop_jax.weights.backbone import load_backbone
from vop_jax.weights.clip_export import convert


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
        ({"image_mean": [0.5, 0.5, 0.5]}, r"pixel statistics \[0\.5, 0\.5, 0\.5\]"),
        ({"image_std": [0.5, 0.5, 0.5]}, "pixel statistics"),
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
        (PREPROCESSOR, GOOD | {"resample": 2}, r"by another filter \(2\)"),
        (PREPROCESSOR, GOOD | {"size": {"shortest_edge": 40}}, "resized to 40 pixels"),
        (
            PREPROCESSOR,
            GOOD | {"do_center_crop": False, "size": {"height": 32, "width": 32}},
            "squashed to a square",
        ),
        ("processor_config.json", {"image_processor": GOOD}, ""),
        (
            "processor_config.json",
            {"image_processor": GOOD | {"resample": 0}},
            "filter",
        ),
        ("open_clip_config.json", {"preprocess_cfg": {"size": 32}}, ""),
        (
            "open_clip_config.json",
            {"preprocess_cfg": {"resize_mode": "squash", "interpolation": "bilinear"}},
            "filter .'bilinear'. and squashed",
        ),
    ],
)
def test_frames_that_differ_a_little_are_a_warning(
    name, values, says, small, tmp_path, capsys
):
    folder = with_frames(small, tmp_path / "clip", values, name)
    load_backbone(folder)
    said = " ".join(capsys.readouterr().err.split())
    assert bool(said) == bool(says)
    assert re.search(says, said)


def test_a_run_looks_at_its_backbones_frames(small, tmp_path):
    from vop_jax.runtime.run_folder import RunFolder
    from vop_jax.training.config import check_config
    from vop_jax.training.run import assemble

    folder = with_frames(
        small, tmp_path / "clip", GOOD | {"image_mean": [0.5, 0.5, 0.5]}
    )
    values = default_values("vop", "demo", str(folder))
    with pytest.raises(UserError, match="pixel statistics"):
        assemble(check_config(values), RunFolder(tmp_path / "run"))
