"""The notebook agrees with its text, knows its runtime, and runs cell by cell."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

SCRIPT, NOTEBOOK = ROOT / "examples/notebook.py", ROOT / "examples/notebook.ipynb"
# Runs the code of the cells one after another in one process, as a kernel does.
KERNEL = """
import json, sys
names = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
"""


@pytest.fixture(scope="module")
def converted():
    """What makes the notebook from a text."""
    return runpy.run_path(str(ROOT / "docs/tools/notebook.py"))["converted"]


def cells(kind):
    content = json.loads(NOTEBOOK.read_text())
    return [x for x in content["cells"] if x["cell_type"] == kind]


def test_the_notebook_is_made_from_its_text(converted):
    script = SCRIPT.read_text()
    made = NOTEBOOK.read_text()
    assert converted(script) == made, "run python docs/tools/notebook.py"
    # Negative control.
    assert converted(script.replace("top=3", "top=4")) != made


def test_the_notebook_is_kept_without_outputs():
    assert len(cells("code")) >= 6
    assert len(cells("markdown")) >= 6
    for cell in cells("code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


def requirements(monkeypatch, folder, devices=(), variables=(), status=None):
    """The set of packages that the install cell takes in such a runtime."""
    for name in devices:
        (folder / "dev" / name).mkdir(parents=True)
    for name in ("COLAB_TPU_ADDR", "TPU_NAME", "TPU_ACCELERATOR_TYPE"):
        monkeypatch.delenv(name, raising=False)
    for name in variables:
        monkeypatch.setenv(name, "x")
    program = folder / "nvidia-smi"
    if status is not None:
        program.write_text(f"#!/bin/sh\nexit {status}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    source = "".join(cells("code")[0]["source"]).replace('"/dev', f'"{folder}/dev')
    names = {}
    exec(compile(source, "cell", "exec"), names)
    assert (ROOT / names["requirements"]()).is_file()
    return names["requirements"]()


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        ({}, "requirements.txt"),
        ({"status": 9}, "requirements.txt"),
        ({"status": 0}, "requirements-cuda.txt"),
        ({"devices": ["accel0"]}, "requirements-tpu.txt"),
        ({"devices": ["vfio/0"]}, "requirements-tpu.txt"),
        ({"devices": ["vfio/vfio"]}, "requirements.txt"),
        ({"variables": ["COLAB_TPU_ADDR"], "status": 0}, "requirements-tpu.txt"),
    ],
)
def test_the_install_cell_knows_its_runtime(runtime, name, monkeypatch, tmp_path):
    assert requirements(monkeypatch, tmp_path, **runtime) == name


@pytest.mark.slow
def test_the_cells_run_in_one_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KERNEL, NOTEBOOK],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "chose batch_size 4: 16 training videos" in done.stdout
    assert "28 moments of 28 new videos" in done.stdout
    assert "the shared model gives the same embeddings: True" in done.stdout
    written = {x.name for x in Path(tmp_path, "shared").iterdir()}
    assert written >= {"README.md", "config.json", "tuned.safetensors"}
