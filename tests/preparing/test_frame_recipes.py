"""Shards have the frames that a backbone wants, or are refused in one line."""

import json

import numpy as np
import pytest
from films import custom_set
from preparations import InProcess, prepare_command
from small_clip import SMALL, folder_of

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.resizing import Resizing
from data_pipelines.feeding.loading import find_prepared, load_data
from data_pipelines.preparing import prepare as module
from data_pipelines.preparing.provenance import FILE, read_provenance
from vop_jax.weights.frame_recipes import prepared_frames
from vop_jax.weights.preprocessing import FRAMES

SQUASH = Resizing("squash", "bilinear")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Workers", InProcess)
    return custom_set(tmp_path)


def prepare(source, **options):
    return module.prepare(
        "custom",
        source / "out",
        videos=source / "videos",
        annotations=source / "rows.csv",
        **{"num_frames": 2, "image_size": 16, **options},
    )


def load(source, resizing, size=16):
    return load_data(
        "custom",
        str(source / "out"),
        num_frames=2,
        image_size=size,
        resizing=resizing,
        tokenize=lambda texts: np.ones((len(texts), 2), np.int32),
        splits=["test"],
    )


def test_other_frames_are_other_shards(source):
    usual, other = prepare(source), prepare(source, resizing=SQUASH)
    assert usual.parts[-3:] == ("2x16", "custom", "1.0.0")
    assert other.parts[-3:] == ("2x16-squash-bilinear", "custom", "1.0.0")
    stated = [read_provenance(x)["resize"] for x in (usual, other)]
    assert stated[0] == "shorter side by PIL's antialiased bicubic, centre crop"
    assert stated[1] == "both sides by PIL's antialiased bilinear"
    for resizing, path in ((Resizing(), usual), (SQUASH, other)):
        assert find_prepared("custom", str(source / "out"), 2, 16, resizing) == path
        assert load(source, resizing).splits["test"].video_ids


def test_a_backbone_of_other_frames_finds_none(source):
    prepare(source)
    says = r"--resize=squash --filter=bilinear \(there is only 2x16, which"
    with pytest.raises(UserError, match=says):
        load(source, SQUASH)
    with pytest.raises(UserError, match=r"--image_size=24 \(there is only 2x16, which"):
        load(source, Resizing(), 24)


def test_shards_that_were_moved_tell_what_they_are(source):
    usual = prepare(source)
    moved = source / "out" / "2x16-squash-bilinear" / "custom"
    moved.mkdir(parents=True)
    usual.rename(moved / "1.0.0")
    with pytest.raises(UserError, match=r"frames resized by .*shorter side.*wants"):
        load(source, SQUASH)
    # Control: without a statement they are what their place says.
    path = moved / "1.0.0" / FILE
    values = json.loads(path.read_text())
    del values["resize"]
    path.write_text(json.dumps(values))
    assert load(source, SQUASH).splits["test"].video_ids


@pytest.mark.parametrize("resizing", [Resizing("fit"), Resizing("crop", "lanczos")])
def test_unknown_frames_are_refused(source, resizing):
    with pytest.raises(UserError, match="is not one of"):
        prepare(source, resizing=resizing)


@pytest.fixture(scope="module")
def squashing(tmp_path_factory):
    folder = folder_of(SMALL, tmp_path_factory.mktemp("squash") / "clip")
    stated = {"size": {"height": 32, "width": 32}, "resample": 2}
    (folder / FRAMES).write_text(json.dumps(stated))
    return folder


@pytest.mark.slow
def test_the_command_asks_the_backbone(source, squashing):
    assert prepared_frames(str(squashing)) == (32, "squash", "bilinear")
    arguments = (
        *("--dataset=custom", f"--videos={source / 'videos'}", "--num_frames=2"),
        *(f"--annotations={source / 'rows.csv'}", f"--output={source / 'out'}"),
        f"--backbone={squashing}",
    )
    done = prepare_command(*arguments, "--workers=2")
    assert done.returncode == 0, done.stderr
    assert f"{source / 'out' / '2x32-squash-bilinear' / 'custom'}" in done.stdout
    for flag, own in (
        ("--resize=crop", "squash"),
        ("--filter=bicubic", "bilinear"),
        ("--image_size=224", "32"),
    ):
        done = prepare_command(*arguments, flag)
        assert done.returncode == 2
        assert f"{flag}, but {squashing} wants {own}" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_published_model_without_a_network(monkeypatch, capsys):
    from vop_jax.weights import frame_recipes

    def offline(name):
        raise UserError(f"{name} cannot be fetched")

    monkeypatch.setattr(frame_recipes, "find_folder", offline)
    assert prepared_frames("vit_l14_336") == (336, "crop", "bicubic")
    assert "taken as published" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match="cannot be fetched"):
        prepared_frames("nobody/nothing")
