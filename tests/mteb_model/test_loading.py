"""What `mteb_encoder` refuses, before mteb is imported."""

import sys

import numpy as np
import pytest
from tuned_models import FRAMES, tuned_file

import vop_jax
from data_pipelines.console.errors import UserError


@pytest.fixture(scope="module")
def model():
    return vop_jax.load("demo")


@pytest.fixture(scope="module")
def bound(model, tmp_path_factory):
    """A model whose tuned parameters belong to frame positions."""
    folder = tmp_path_factory.mktemp("bound")
    return model.with_tuned(tuned_file(folder / "tuned.safetensors", "vop_p"))


WRONG = {
    "model is a number": ({}, "what vop_jax.load returns"),
    "max_frames": ({"max_frames": 8}, "pass fps, or num_frames instead"),
    "fps and num_frames": ({"fps": 1, "num_frames": 4}, "not both"),
    "fps alone": ({"fps": 1}, "pass max_frames"),
    "fps of 0": ({"fps": 0, "max_frames": 8}, "from 0.001 to 1,000"),
    "fps in words": ({"fps": "two", "max_frames": 8}, "from 0.001 to 1,000"),
    "fps without end": ({"fps": 10**5000, "max_frames": 8}, "fps is out of range; "),
    "a long fps": ({"fps": 10**17, "max_frames": 8}, "fps is 1e+17; "),
    "fps of no number": ({"fps": float("nan"), "max_frames": 8}, "pass a number"),
    "numpy's fps alone": ({"fps": np.float32(2)}, "pass max_frames"),
    "num_frames of 0": ({"num_frames": 0}, "num_frames"),
    "a name without an owner": ({"name": "vop"}, "pass owner/name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_one_line(case, model):
    given, said = WRONG[case]
    with pytest.raises(UserError) as refused:
        vop_jax.mteb_encoder(3 if case.startswith("model") else model, **given)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_of_so_many_frames_takes_no_other_number(bound):
    with pytest.raises(UserError, match=f"belong to {FRAMES} frame positions"):
        vop_jax.mteb_encoder(bound, num_frames=FRAMES + 1)
    with pytest.raises(UserError, match=f"belong to {FRAMES} frame positions"):
        vop_jax.mteb_encoder(bound, fps=1, max_frames=FRAMES)


def test_without_mteb_one_line_says_what_to_install(model, monkeypatch):
    monkeypatch.delitem(sys.modules, "vop_jax.mteb_model.encoder", raising=False)
    loaded = [x for x in sys.modules if x.partition(".")[0] == "mteb"]
    for name in {"mteb", *loaded}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as refused:
        vop_jax.mteb_encoder(model)
    assert "pip install 'mteb>=2.26.24,<3'" in str(refused.value)
    assert "\n" not in str(refused.value)
