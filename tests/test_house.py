"""The house: requirements, the script, what a wheel would hold."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("requirements*.txt"))


def pins(path):
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "-r ")):
            yield line


@pytest.mark.parametrize("path", FILES, ids=lambda x: x.name)
def test_every_requirement_is_pinned_and_has_a_reason(path):
    for line in pins(path):
        assert re.fullmatch(r"[\w\-\[\]]+==[\w.]+  # .{10,}", line), line


def test_what_only_tests_need_stays_out_of_the_run_time_set():
    names = {re.split(r"[\[=]", x)[0] for x in pins(ROOT / "requirements.txt")}
    assert not names & {"torch", "pytest", "ruff", "pyright", "pytest-xdist"}


def test_a_wheel_holds_the_two_packages_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert found == ["vop_jax*", "data_pipelines*"]


def test_the_script_answers_without_installing(tmp_path):
    script = ROOT / "run.sh"
    done = subprocess.run(
        [script, "--help"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "./run.sh test" in done.stdout
    wrong = subprocess.run(
        [script, "x"],
        env={"REQUIREMENTS": "none.txt", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: none.txt does not exist")


def test_the_demo_backbone_is_small():
    size = sum(x.stat().st_size for x in (ROOT / "vop_jax/demo/backbone").iterdir())
    assert size < 3 * 2**20
