"""The wheel and the source archive: what they hold, and that they work elsewhere."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import vop_jax

ROOT = Path(__file__).parents[2]
# What a clone has at the top that a build reads.
SOURCES = ("vop_jax", "data_pipelines", "pyproject.toml", "README.md", "LICENSE")
BUILD = """
import sys
from setuptools import build_meta
getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2])
"""
LOAD = """
import numpy as np, vop_jax
model = vop_jax.load("demo")
frames = np.zeros((1, 2, *[model.backbone.size.image_size] * 2, 3), np.uint8)
similarity = model.encode_texts(["a red circle"]) @ model.encode_videos(frames).T
print(vop_jax.__file__, *similarity.shape)
"""

pytestmark = pytest.mark.slow


def build(kind, source, output):
    """Builds with the setuptools that is installed, so that nothing is downloaded."""
    output.mkdir()
    command = [sys.executable, "-c", BUILD, kind, output]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = output.iterdir()
    return built


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel of the tree, a source archive of it, and a wheel of that."""
    folder = tmp_path_factory.mktemp("built")
    tree = folder / "tree"
    tree.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tree)
    archive = build("sdist", tree, folder / "sdist")
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return [
        build("wheel", source, folder / f"wheel of {source.name}")
        for source in (tree, unpacked)
    ]


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A fresh environment with the wheel, and the libraries of this one."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "-q")
    install = [python, "-m", "pip", "install", *options, built[1]]
    subprocess.run(install, check=True)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(installed, folder, program, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [installed / "bin" / program, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_hold_all_files_of_the_packages_and_no_others(built):
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *SOURCES[:2]],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a clone")
    for wheel in built:
        names = zipfile.ZipFile(wheel).namelist()
        held = {name for name in names if ".dist-info/" not in name}
        assert held == {x for x in listed.stdout.split("\n") if (ROOT / x).is_file()}


def test_what_is_installed_says_its_version_and_what_it_needs(installed, tmp_path):
    assert run(installed, tmp_path, "vop-jax", "--version") == (
        f"vop_jax {vop_jax.__version__}\n"
    )
    assert "pod-plan" in run(installed, tmp_path, "vop-jax", "--help")
    code = (
        "from importlib.metadata import requires, version; "
        "print(version('vop_jax'), *requires('vop_jax'), sep='\\n')"
    )
    version, *needed = run(installed, tmp_path, "python", "-c", code).split("\n")
    assert version == vop_jax.__version__
    assert "jax<0.13,>=0.10.2" in needed


def test_the_demo_is_loaded_and_searched_from_another_folder(installed, tmp_path):
    where, *shape = run(installed, tmp_path, "python", "-c", LOAD).split()
    assert Path(where).is_relative_to(installed)
    assert shape == ["1", "1"]
    data = ("--dataset=msvd", "--output=data")
    run(installed, tmp_path, "vop-jax", "dummy", *data)
    made = ("--videos=data/videos", "--checkpoint=demo", "--output=index")
    run(installed, tmp_path, "vop-jax", "search", "index", *made)
    asked = ("--index=index", "--json", "a red circle")
    answer = run(installed, tmp_path, "vop-jax", "search", "query", *asked)
    (found,) = json.loads(answer)["answers"]
    videos = list((tmp_path / "data/videos").iterdir())
    ranks = [x["rank"] for x in found["hits"]]
    assert ranks == list(range(1, 1 + min(10, len(videos))))


def test_the_demo_is_trained_from_another_folder(installed, tmp_path):
    short = ("--config.epochs=1", "--config.method=vop", "--workdir=run")
    run(installed, tmp_path, "vop-jax", "train", *short)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["method"] == "vop"
    assert (tmp_path / "run/report/index.html").is_file()
