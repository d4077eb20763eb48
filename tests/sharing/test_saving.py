"""A saved and a pushed model is loaded again, to the last bit, or refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_hub import environment, hub  # noqa: F401
from huggingface_hub import constants
from tuned_models import (
    alike,
    copy_of_backbone,
    features,
    files_of,
    same,
    same_arrays,
    tuned_file,
    tuned_model,
)

import vop_jax
from data_pipelines.console.errors import UserError
from vop_jax.weights.locate import BACKBONE, find_folder

ROOT = Path(__file__).parents[2]
CLIP = "acme/clip"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
# What a process of somebody else's does: load by name, and write the features down.
ELSEWHERE = """
import sys
import numpy as np
from tuned_models import features
import vop_jax
np.savez(sys.argv[2], *features(vop_jax.load(sys.argv[1])))
"""


@pytest.fixture
def model(tmp_path):
    return tuned_model(tmp_path / "tuned.safetensors")


@pytest.fixture
def on_hub(hub, tmp_path):
    """A model on a backbone that came from the hub, and the hub."""
    hub.commit(CLIP, files_of(BACKBONE))
    file = tuned_file(tmp_path / "tuned.safetensors")
    made = vop_jax.load(CLIP, tuned=file)
    hub.sent.clear()
    return hub, made


def test_a_saved_model_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path / "out")
    held = files_of(tmp_path / "out")
    assert set(held) == {"README.md", "config.json", "tuned.safetensors"}
    stated = json.loads(held["config.json"])
    assert stated["backbone"] == {"name": "demo", "sha256": model.backbone.sha256}
    again = vop_jax.Model.from_pretrained(tmp_path / "out")
    assert alike(again, model)
    texts = ["a red circle"]
    right = model.encode_texts(texts)
    assert np.array_equal(again.encode_texts(texts), right)
    # And another than without it.
    assert not alike(vop_jax.load("demo"), model)


def test_tuned_weights_of_the_backbone_and_the_dtype(tmp_path):
    changed = ("text/projection", "vision/layers/ln_1/bias")
    file = tuned_file(tmp_path / "tuned.safetensors", "vop", changed=changed)
    model = vop_jax.load("demo", tuned=file, num_frames=5, dtype="bfloat16")
    model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out/tuned.safetensors").stat().st_size == file.stat().st_size
    again = vop_jax.load(tmp_path / "out")
    assert again.num_frames == 5
    # The parameters were kept in float32 all along.
    right = vop_jax.load("demo", tuned=file)
    assert same_arrays(again, right)
    other = _other_backbone(tmp_path / "other")
    with pytest.raises(UserError, match="was trained on another backbone"):
        vop_jax.load(other, tuned=tmp_path / "out/tuned.safetensors")


def _other_backbone(path):
    """The demo's backbone with one weight changed."""
    import safetensors.numpy

    copy_of_backbone(path)
    file = path / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    tensors["logit_scale"] = tensors["logit_scale"] + np.float32(0.01)
    safetensors.numpy.save_file(tensors, file)
    return path


@pytest.mark.slow
def test_a_pushed_model_moves_its_own_bytes_alone(on_hub, tmp_path):
    hub, made = on_hub
    commit = made.push_to_hub("me/x", license="apache-2.0")
    held = hub.at("me/x", commit)[1]
    assert set(held) == {"README.md", "config.json", "tuned.safetensors"}
    stated = json.loads(held["config.json"])["backbone"]
    assert stated["name"] == CLIP
    assert stated["revision"] == hub.at(CLIP, "main")[0]
    # The backbone has changed since, and the model is still on the one it was tuned on.
    hub.commit(CLIP, {"model.safetensors": b"other"})
    right = features(made)
    # In a process of somebody else's, with an empty cache.
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests/helpers")))
    variables = environment(hub, tmp_path / "elsewhere")
    done = subprocess.run(
        [sys.executable, script, "me/x", tmp_path / "features.npz"],
        cwd=tmp_path,
        env={**os.environ, **variables, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    moved = {k: v for k, v in hub.sent.items() if k.startswith("me/x/")}
    assert moved == {
        f"me/x/{x}": len(held[x]) for x in ("config.json", "tuned.safetensors")
    }
    lines = done.stderr.splitlines()
    assert [x.split(":")[0] for x in lines] == [
        f"fetching from me/x@{commit[:12]}",
        f"fetching from acme/clip@{stated['revision'][:12]}",
    ]
    assert f"tuned.safetensors ({len(held['tuned.safetensors']):,} bytes)" in lines[0]
    weights = (BACKBONE / "model.safetensors").stat().st_size
    assert f"model.safetensors ({weights:,} bytes)" in lines[1]
    found = np.load(tmp_path / "features.npz")
    assert same([found[x] for x in found.files], right)


def test_a_pushed_model_is_the_same(on_hub, monkeypatch):
    hub, made = on_hub
    commit = made.push_to_hub("me/x")
    assert alike(vop_jax.load("me/x"), made)
    sizes = {k: len(x) for k, x in hub.at("me/x", commit)[1].items()}
    # The backbone is there already, and its commit does not change.
    assert hub.sent == {f"me/x/{k}": x for k, x in sizes.items() if k != "README.md"}
    hub.commit(CLIP, {"model.safetensors": b"other"})
    assert alike(vop_jax.load("me/x", revision="main"), made)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    for revision in (None, commit):
        assert alike(vop_jax.load("me/x", revision=revision), made)


def test_a_collection_on_the_hub(on_hub):
    hub, made = on_hub
    made.push_to_hub("me/many", subfolder="msrvtt_9k")
    commit = made.push_to_hub("me/many", subfolder="msvd")
    held = hub.at("me/many", commit)[1]
    files = ("README.md", "config.json", "tuned.safetensors")
    assert set(held) == {
        "README.md",
        *(f"{x}/{y}" for x in ("msrvtt_9k", "msvd") for y in files),
    }
    for folder in ("msrvtt_9k", "msvd"):
        assert f'vop_jax.load("me/many/{folder}")' in held["README.md"].decode()
    for model in (
        vop_jax.load("me/many/msvd"),
        vop_jax.load("me/many", subfolder="msvd", revision=commit),
        vop_jax.load(f"me/many/msvd@{commit}"),
    ):
        assert alike(model, made)
    assert not any(x.startswith("me/many/msrvtt") for x in hub.sent)
    with pytest.raises(UserError, match="no model in this folder, but in: msrvtt_9k"):
        vop_jax.load("me/many")


def test_a_backbone_of_a_folder_is_written_as_well(hub, tmp_path):
    folder = copy_of_backbone(tmp_path / "clip")
    (folder / "tokenizer_config.json").unlink()
    model = tuned_model(tmp_path / "tuned.safetensors", backbone=folder)
    model.save_pretrained(tmp_path / "out")
    stated = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert stated["tokenizer_class"] == "PreTrainedTokenizerFast"
    weights = (folder / "model.safetensors").read_bytes()
    assert (tmp_path / "out/model.safetensors").read_bytes() == weights
    shutil.move(folder, tmp_path / "gone")
    for place in (tmp_path / "out", "me/own"):
        if place == "me/own":
            model = vop_jax.load(tmp_path / "out")
            model.push_to_hub("me/own")
        assert alike(vop_jax.load(place), model)


def test_a_collection_has_such_a_backbone_once(hub, tmp_path):
    folder = copy_of_backbone(tmp_path / "clip")
    first = tuned_model(tmp_path / "a.safetensors", backbone=folder)
    second = tuned_model(tmp_path / "b.safetensors", backbone=folder, seed=1)
    for name, model in (("a", first), ("b", second)):
        model.save_pretrained(tmp_path / "out", subfolder=name)
        model.push_to_hub("me/many", subfolder=name)
    held = hub.at("me/many", "main")[1]
    own = {x.relative_to(tmp_path / "out") for x in (tmp_path / "out").rglob("*.*")}
    assert {Path(x) for x in held} == {x for x in own if not x.name.startswith(".")}
    assert [x for x in held if x.endswith("model.safetensors")] == ["model.safetensors"]
    for name, model in (("a", first), ("b", second)):
        for place in (f"me/many/{name}", tmp_path / "out" / name):
            again = vop_jax.load(place)
            assert alike(again, model)
    # On another backbone it would not belong there.
    other = _other_backbone(tmp_path / "other")
    third = tuned_model(tmp_path / "c.safetensors", backbone=other)
    for save, place in (
        (third.push_to_hub, "me/many"),
        (third.save_pretrained, tmp_path / "out"),
    ):
        with pytest.raises(UserError, match="holds another backbone"):
            save(place, subfolder="c")
    assert hub.at("me/many", "main")[1] == held
    assert not (tmp_path / "out/c").exists()


def test_a_backbone_of_a_folder_can_be_named(on_hub, tmp_path):
    hub, made = on_hub
    folder = copy_of_backbone(tmp_path / "clip")
    model = tuned_model(tmp_path / "t.safetensors", backbone=folder)
    model.save_pretrained(tmp_path / "out", backbone=CLIP)
    stated = json.loads((tmp_path / "out/config.json").read_text())["backbone"]
    commit = hub.at(CLIP, "main")[0]
    assert (stated["name"], stated["revision"]) == (CLIP, commit)
    assert alike(vop_jax.load(tmp_path / "out"), made)
    hub.commit(CLIP, files_of(_other_backbone(tmp_path / "other")))
    with pytest.raises(UserError, match="acme/clip holds another backbone"):
        model.save_pretrained(tmp_path / "new", backbone=CLIP)
    model.save_pretrained(tmp_path / "new", backbone=f"{CLIP}@{commit}")
    for wrong in ("clip", "acme/clip/x", 3):
        with pytest.raises(UserError, match=r"backbone is .*; pass its name"):
            model.save_pretrained(tmp_path / "not", backbone=wrong)


def test_another_backbone_of_the_same_name_is_refused(on_hub, tmp_path):
    """A config that names one commit and the hash of another."""
    hub, made = on_hub
    made.save_pretrained(tmp_path / "out")
    hub.commit(CLIP, files_of(_other_backbone(tmp_path / "other")))
    config = tmp_path / "out/config.json"
    stated = json.loads(config.read_text())
    stated["backbone"]["revision"] = hub.at(CLIP, "main")[0]
    config.write_text(json.dumps(stated))
    with pytest.raises(UserError, match=r"sha256 .* but the parameters were tuned on"):
        vop_jax.load(tmp_path / "out")
    assert vop_jax.load(tmp_path / "out", any_backbone=True)


def test_what_cannot_be_saved(model, tmp_path):
    with pytest.raises(UserError, match="no tuned parameters to save"):
        vop_jax.load("demo").save_pretrained(tmp_path / "x")
    file = tmp_path / "tuned.safetensors"
    half = vop_jax.load("demo", tuned=file, towers=["text"])
    with pytest.raises(UserError, match="loaded without its vision tower"):
        half.save_pretrained(tmp_path / "x")
    with pytest.raises(UserError, match="exists already; use another folder"):
        model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"subfolder is a/b; pass one folder's name"):
        model.save_pretrained(tmp_path / "x", subfolder="a/b")
    with pytest.raises(UserError, match="license is "):
        model.save_pretrained(tmp_path / "x", license="my own: license")
    with pytest.raises(UserError, match="is not the name of a repository"):
        model.push_to_hub("x")
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("on_hub")
def test_names_of_the_hub_and_paths_are_not_mixed(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"revision='v1' belongs to a model on the hub"):
        vop_jax.load(tmp_path, revision="v1")
    with pytest.raises(UserError, match="subfolder='x' belongs to a model on the hub"):
        vop_jax.load("demo", subfolder="x")
    # A folder of that name comes first.
    monkeypatch.chdir(tmp_path)
    assert find_folder(CLIP) != Path(CLIP)
    copy_of_backbone(tmp_path / "acme/clip")
    assert find_folder(CLIP) == Path(CLIP)


def test_commands_take_such_names(on_hub, capsys):
    from vop_jax.evaluate import main

    on_hub[1].push_to_hub("me/x")
    with pytest.raises(SystemExit) as end:
        main(["--checkpoint=me/x@v9", "--dataset=demo"])
    assert end.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: me/x on the Hugging Face hub has no revision v9")
