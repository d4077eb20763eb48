"""Imports go one way, and some packages stay out of some places."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
# The order is the page's, so that page and code cannot drift apart.
ORDER = re.findall(r"^\| `([\w.]+)` \|", PAGE.split("import order")[1], re.M)
ORDER = ORDER[: ORDER.index("main") + 1]
BRANCH = re.compile(r"method *(==|!=|in) *[\[(\"']")
FILES = sorted((ROOT / "vop_jax").rglob("*.py"))
DATA_FILES = sorted((ROOT / "data_pipelines").rglob("*.py"))


def imported(source):
    """Every module that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def module_name(path):
    parts = path.relative_to(ROOT / "vop_jax").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def wrong_imports(name, source):
    """Imports of later modules, and of packages that have no place in a model."""
    for module in imported(source):
        if module.split(".")[0] in ("tensorflow", "torch"):
            yield module
        if module.startswith("vop_jax."):
            target = module.removeprefix("vop_jax.")
            if target not in ORDER or ORDER.index(target) >= ORDER.index(name):
                yield module


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_one_way(path):
    name = module_name(path)
    if name:
        assert name in ORDER, f"{name} is missing in docs/architecture.md"
        assert not list(wrong_imports(name, path.read_text()))


def test_the_check_finds_what_it_is_for():
    """Negative control."""
    assert list(wrong_imports("layers", "import vop_jax.towers"))
    assert list(wrong_imports("layers", "def f():\n  from vop_jax.train import x"))
    assert list(wrong_imports("towers", "import torch"))
    assert not list(wrong_imports("towers", "from vop_jax.layers import Block"))
    assert BRANCH.search('if config.method == "vop":')


@pytest.mark.parametrize("path", DATA_FILES, ids=str)
def test_the_data_side_knows_no_jax(path):
    packages = {module.split(".")[0] for module in imported(path.read_text())}
    assert not packages & {"jax", "flax", "optax", "torch", "vop_jax"}


@pytest.mark.parametrize("path", FILES + DATA_FILES, ids=str)
def test_files_are_short_and_methods_are_rows(path):
    source = path.read_text()
    assert source.count("\n") <= 400
    assert not BRANCH.search(source)
