"""Exported programs give the same features without this project's code."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tuned_models import FRAMES, tuned_file

import vop_jax
from data_pipelines.console.errors import UserError
from vop_jax.sharing.exporting import export

# JAX and NumPy alone, in a folder of its own.
ELSEWHERE = """
import sys
import jax
import numpy as np
from jax import export

weights = dict(np.load("exported/weights.npz"))
given = dict(np.load("given.npz"))
found = {}
for name, rows in given.items():
    with open(f"exported/{name}.stablehlo", "rb") as file:
        program = export.deserialize(bytearray(file.read()))
    found[name] = program.call(weights, rows)
assert not {x for x in sys.modules if x.startswith(("vop_jax", "flax", "data_pip"))}
np.savez("found.npz", **found)
"""


@pytest.fixture
def model(tmp_path):
    file = tuned_file(tmp_path / "tuned.safetensors", "vop_fc")
    return vop_jax.load("demo", tuned=file)


@pytest.mark.slow
def test_the_programs_give_the_same_features_elsewhere(model, tmp_path):
    export(model, tmp_path / "exported", 2, 3)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, FRAMES, 48, 48, 3), np.uint8)
    texts = ["a red circle", "a small green square moves up", "a ring"]
    ids = model.tokenizer(texts)
    np.savez(tmp_path / "given.npz", videos=frames, texts=ids.astype(np.int32))
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    environment = {k: x for k, x in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    right = {"videos": model.encode_videos(frames), "texts": model.encode_texts(texts)}
    for name, features in right.items():
        np.testing.assert_allclose(found[name], features, atol=1e-6)
    # Negative control: other frames have other features.
    other = model.encode_videos(frames[:, ::-1])
    assert np.abs(found["videos"] - other).max() > 1e-4
    stated = json.loads((tmp_path / "exported/signature.json").read_text())
    for name, features in right.items():
        program = stated["programs"][name]
        given = {"videos": frames, "texts": ids}[name]
        assert tuple(program["input"]) == given.shape
        assert tuple(program["output"]) == features.shape


def test_what_cannot_be_exported(tmp_path):
    half = vop_jax.load("demo", towers=["text"])
    with pytest.raises(UserError, match="loaded without its vision tower"):
        export(half, tmp_path / "x", 1, 1)
    with pytest.raises(UserError, match="only float32 is exported"):
        export(vop_jax.load("demo", dtype="bfloat16"), tmp_path / "x", 1, 1)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/mine").write_text("")
    with pytest.raises(UserError, match="x exists already; use another --output"):
        export(vop_jax.load("demo"), tmp_path / "x", 1, 1)
    assert [x.name for x in tmp_path.iterdir()] == ["x"]
