"""The house: requirements, the script, what is installed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import vop_jax

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("requirements*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ("3.11", "3.12", "3.13")
PIN = re.compile(
    r"[\w\-\[\]]+==[\w.]+(; python_version (<|>=) \"3\.1[123]\")?  # .{10,}"
)
# A file, and the part of pyproject.toml that says the same as ranges.
RANGES = {
    "requirements.txt": PROJECT["dependencies"],
    **{
        f"requirements-{extra}.txt": PROJECT["optional-dependencies"][extra]
        for extra in ("cuda", "test", "tpu")
    },
}


def pins(path):
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "-r ")):
            yield line


def parsed(lines, python):
    """The requirements that a Python has, by name."""
    found = [Requirement(x.partition("  #")[0]) for x in lines]
    held = [
        x
        for x in found
        if not x.marker or x.marker.evaluate({"python_version": python})
    ]
    assert len({x.name for x in held}) == len(held), f"two pins of one on {python}"
    return {x.name: x for x in held}


def version_of(pin):
    (specifier,) = pin.specifier
    return specifier.version


@pytest.mark.parametrize("path", FILES, ids=lambda x: x.name)
def test_every_requirement_is_pinned_and_has_a_reason(path):
    for line in pins(path):
        assert PIN.fullmatch(line), line


@pytest.mark.parametrize("name", RANGES)
def test_the_ranges_of_the_package_hold_what_is_pinned(name):
    """Every Python's pin is in the range, and the oldest is where it begins."""
    lines = list(pins(ROOT / name))
    pinned = [parsed(lines, python) for python in PYTHONS]
    ranges = [parsed(RANGES[name], python) for python in PYTHONS]
    for ours, theirs in zip(pinned, ranges, strict=True):
        assert ours.keys() == theirs.keys()
        for package, pin in ours.items():
            assert pin.extras == theirs[package].extras
            assert theirs[package].specifier.contains(version_of(pin)), package
            lower, upper = sorted(x.operator for x in theirs[package].specifier)
            assert (lower, upper) == ("<", ">=")
    for package, required in ranges[0].items():
        (least,) = (x.version for x in required.specifier if x.operator == ">=")
        assert least == version_of(pinned[0][package]), package


def test_every_python_that_is_allowed_is_one_that_is_named():
    allowed = Requirement(f"x{PROJECT['requires-python']}").specifier
    assert all(allowed.contains(f"{x}.1") for x in PYTHONS)
    assert not allowed.contains("3.10.9")
    assert not allowed.contains("3.14.0")
    start = "Programming Language :: Python :: 3."
    named = [x[-4:] for x in PROJECT["classifiers"] if x.startswith(start)]
    assert named == list(PYTHONS)
    (line,) = re.findall(r'^versions="(.*)"$', (ROOT / "run.sh").read_text(), re.M)
    assert sorted(line.split()) == list(PYTHONS)


def test_mteb_is_installed_beside_what_is_pinned_and_replaces_none_of_it():
    ours = parsed(pins(ROOT / "requirements-mteb.txt"), "3.11")
    (required,) = map(Requirement, PROJECT["optional-dependencies"]["mteb"])
    assert required.specifier.contains(version_of(ours["mteb"]))
    others = [x for x in FILES if x.name != "requirements-mteb.txt"]
    for path in others:
        theirs = parsed(pins(path), "3.11")
        for package in ours.keys() & theirs.keys():
            assert version_of(ours[package]) == version_of(theirs[package]), package
    assert (ROOT / ".ci/run").read_text().count("-r requirements-mteb.txt") == 1


def test_what_only_tests_need_stays_out_of_the_run_time_set():
    names = {re.split(r"[\[=]", x)[0] for x in pins(ROOT / "requirements.txt")}
    assert not names & {"torch", "pytest", "ruff", "pyright", "pytest-xdist"}


def test_the_version_is_the_same_everywhere():
    assert "version" in PROJECT["dynamic"]
    cited = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited == [vop_jax.__version__]
    assert re.fullmatch(r"\d+\.\d+\.\d+", vop_jax.__version__)


def test_the_package_is_imported_without_its_libraries():
    program = (
        "import sys, vop_jax, vop_jax.__main__; "
        "print(*{x.partition('.')[0] for x in sys.modules} "
        "& {'jax', 'numpy', 'tensorflow', 'flax', 'absl', 'rich', 'etils'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""


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


def test_the_demos_backbones_are_small():
    folders = [*(ROOT / "vop_jax/demo").glob("backbone*")]
    assert len(folders) == 2
    for folder in folders:
        assert sum(x.stat().st_size for x in folder.iterdir()) < 3 * 2**20
