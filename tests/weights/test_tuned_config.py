"""The config.json of shared parameters: what it may name, and what it may not."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from tuned_models import same_arrays, tuned_file

import vop_jax
from data_pipelines.console.errors import UserError
from vop_jax.weights.clip_export import convert
from vop_jax.weights.config_file import read_size
from vop_jax.weights.locate import BACKBONE
from vop_jax.weights.tuned import read_tuned
from vop_jax.weights.tuned_config import read_tuned_config, write_tuned_config

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    tuned = tuned_file(tmp_path / "tuned.safetensors", "vop")
    sha256 = read_tuned(tuned)[1]["backbone_sha256"]
    text = write_tuned_config(tuned, {"name": "demo", "sha256": sha256})
    (tmp_path / "config.json").write_text(text)
    return tmp_path


def changed(folder, part, **fields):
    values = json.loads((folder / "config.json").read_text())
    target = values[part] if part else values
    for name, value in fields.items():
        target[name] = value
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        *("..", "../clip", "/etc", "~/clip", "a/../b", "runs/clip/x", "", "./clip"),
        *("file:///etc", "gs://b/clip", "owner/..", "other", "demo/"),
    ],
)
def test_it_leads_nowhere_else(folder, name, monkeypatch):
    monkeypatch.chdir(folder)
    changed(folder, "backbone", name=name, revision=COMMIT)
    with pytest.raises(UserError, match=r"config\.json.*backbone"):
        vop_jax.load(folder)


def test_a_folder_here_is_never_meant_by_a_name_of_the_hub(folder, monkeypatch):
    """A config from elsewhere could otherwise have a private folder loaded."""
    asked = []

    def offline(_, name, **__):
        asked.append(name)
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", offline)
    monkeypatch.chdir(folder)
    Path("private").mkdir()
    Path("private/clip").symlink_to(BACKBONE)
    changed(folder, "backbone", name="private/clip", revision=COMMIT)
    with pytest.raises(UserError, match=r"private/clip@.* cannot be fetched"):
        vop_jax.load(folder)
    assert asked == ["private/clip"]


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT[:12]])
def test_a_backbone_of_the_hub_is_pinned(folder, revision):
    fields = {} if revision is None else {"revision": revision}
    changed(folder, "backbone", name="owner/clip", **fields)
    with pytest.raises(UserError, match=r"config\.json.*(revision|commit)"):
        vop_jax.load(folder)


@pytest.mark.parametrize(
    ("part", "fields", "says"),
    [
        ("", {"format": 2}, "has format 2; this version reads 1"),
        ("", {"tuned": {}}, "tuned"),
        ("tuned", {"bytes": "4"}, r"tuned\.bytes"),
        ("tuned", {"bytes": 3}, "but config.json beside it states 3"),
        ("tuned", {"sha256": "0" * 64}, "states 000000000000"),
        ("backbone", {"sha256": "x"}, r"backbone\.sha256"),
        ("backbone", {"sha256": "0" * 64}, "were tuned on those of 000000000000"),
    ],
)
def test_what_is_wrong_is_one_line(folder, part, fields, says):
    assert vop_jax.load(folder)
    changed(folder, part, **fields)
    with pytest.raises(UserError, match=says) as error:
        vop_jax.load(folder)
    assert "\n" not in str(error.value)


def test_the_parameters_are_those_that_it_states(folder):
    content = bytearray((folder / "tuned.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "tuned.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="fetch or save it again"):
        vop_jax.load(folder)
    (folder / "tuned.safetensors").unlink()
    with pytest.raises(UserError, match=r"is missing, but config\.json beside it"):
        vop_jax.load(folder)


def test_other_files_of_that_name(folder):
    assert read_tuned_config(BACKBONE) is None
    assert read_tuned_config(folder / "nothing") is None
    with pytest.raises(UserError, match="tuned parameters alone; use the backbone"):
        read_size(folder / "config.json")
    changed(folder, "backbone", name=".")
    with pytest.raises(UserError, match=r"config\.json"):
        vop_jax.load(folder)


def test_a_shared_model_is_converted(folder, tmp_path):
    convert(folder, tmp_path / "out", "huggingface")
    ours, theirs = vop_jax.load(tmp_path / "out"), vop_jax.load(folder)
    assert same_arrays(ours, theirs)
    # The demo's file has this one in a vector, which transformers refuses.
    with safe_open(tmp_path / "out/model.safetensors", "np") as file:
        assert file.get_slice("logit_scale").get_shape() == []
    changed(folder, "tuned", sha256="0" * 64)
    with pytest.raises(UserError, match="fetch or save it again"):
        convert(folder, tmp_path / "again", "huggingface")


def test_a_backbone_that_comes_with_the_project_has_no_revision(folder):
    changed(folder, "backbone", revision=COMMIT)
    with pytest.raises(UserError, match=r"config\.json: backbone\.name is"):
        vop_jax.load(folder)
