"""What the conversion refuses: what is not quite a CLIP, and mistaken calls."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_clip

import vop_jax.convert as command_line
from data_pipelines.console.errors import UserError
from vop_jax.weights.clip_export import convert

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def state():
    return torch_clip.random_state()


def change(state, kind):
    """A state dictionary that is not quite a CLIP."""
    state = dict(state)
    name = "visual.transformer.resblocks.1.mlp.c_fc.bias"
    if kind == "missing":
        del state[name]
    elif kind == "left over":
        state["visual.transformer.resblocks.1.mlp.extra"] = torch.zeros(3)
    elif kind == "shape":
        state[name] = state[name][:-1].clone()
    elif kind == "no patches":
        name = "visual.positional_embedding"
        state[name] = state[name][:1].clone()
    elif kind == "resnet":
        state = {"visual.layer1.0.conv1.weight": torch.zeros(3, 3)}
    elif kind == "something else":
        state = {"fc.weight": torch.zeros(3, 3)}
    return state


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", r"missing visual\.transformer\.resblocks\.1\.mlp\.c_fc\.bias$"),
        ("left over", r"unexpected visual\.transformer\.resblocks\.1\.mlp\.extra"),
        ("shape", r"fc1\.bias has shape \[511\]"),
        ("no patches", "0 patches are not a square image's"),
        ("resnet", "not a CLIP with a vision Transformer"),
        ("something else", r"it holds fc\.weight"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_left(state, tmp_path, kind, says):
    torch.save(change(state, kind), tmp_path / "clip.pt")
    with pytest.raises(UserError, match=says):
        convert(tmp_path / "clip.pt", tmp_path / "out", "huggingface")
    assert [x.name for x in tmp_path.iterdir()] == ["clip.pt"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("half", [False, True])
def test_numbers_that_are_not_finite_are_refused(state, tmp_path, value, half):
    name = "visual.transformer.resblocks.1.mlp.c_fc.weight"
    damaged = state[name].clone()
    damaged[-1, 7] = value
    named = state | {name: damaged}
    named = {k: x.half() for k, x in named.items()} if half else named
    torch.save(named, tmp_path / "clip.pt")
    with pytest.raises(UserError, match=rf"clip\.pt: {name} holds NaN"):
        convert(tmp_path / "clip.pt", tmp_path / "out", "huggingface")
    assert [x.name for x in tmp_path.iterdir()] == ["clip.pt"]


def test_mistakes_on_the_command_line_are_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "vop_jax.convert", "--input=/nowhere", "--output=x"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: /nowhere does not exist; pass a file of")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--videos=3"], "--videos has no effect with --to=huggingface"),
        (["--to=openai", "--texts=8"], "--texts has no effect with --to=openai"),
        (
            ["--to=stablehlo", "--heads=1,1"],
            "--heads has no effect with --to=stablehlo",
        ),
    ],
)
def test_a_flag_without_effect_is_one_line(monkeypatch, capsys, tmp_path, flags, says):
    output = f"--output={tmp_path / 'out'}"
    monkeypatch.setattr(sys, "argv", ["convert", "--input=demo", output, *flags])
    with pytest.raises(SystemExit, match="2"):
        command_line.main()
    assert capsys.readouterr().err == f"error: {says}; leave it out\n"
    assert not list(tmp_path.iterdir())
