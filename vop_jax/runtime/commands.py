"""The commands of the project, and the flags that each has; none is imported."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

# The name of a command and its module, in the order in which a person needs them.
COMMANDS = {
    "train": "vop_jax.main",
    "train --videos": "vop_jax.train",
    "evaluate": "vop_jax.evaluate",
    "search": "vop_jax.search",
    "convert": "vop_jax.convert",
    "doctor": "data_pipelines.doctor",
    "prepare": "data_pipelines.prepare",
    "dummy": "data_pipelines.dummy",
    "parameters": "vop_jax.parameters",
    "ablate": "vop_jax.ablate",
    "pod-plan": "vop_jax.pod_plan",
}
_ROOT = Path(__file__).parents[2]
_PACKAGES = ("vop_jax", "data_pipelines")


def source_of(module: str) -> ast.Module:
    """The parsed source of a module of the project."""
    path = _ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(path.read_text())


def commands_with(flag: str) -> list[str]:
    """The modules of the commands that have a flag.

    Args:
        flag: its name without dashes in front; `-` and `_` are equal.
    """
    name = flag.replace("-", "_")
    return [module for module in COMMANDS.values() if name in _flags_of(module)]


def _flags_of(module: str) -> set[str]:
    """The flags that a command defines, itself or in modules that it imports."""
    tree = source_of(module)
    found = set(_defined_in(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            path = _ROOT.joinpath(*node.module.split(".")).with_suffix(".py")
            if node.module.startswith(_PACKAGES) and path.is_file():
                found |= {*_added_in(source_of(node.module))}
    return found


def _defined_in(tree: ast.Module) -> Iterator[str]:
    """The names of argparse's flags, and of absl's, which have a function."""
    yield from _added_in(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "define_flags":
            yield from (x for x in _first_texts(node) if x.isidentifier())


def _added_in(tree: ast.AST) -> Iterator[str]:
    """The names of argparse's flags."""
    for text in _first_texts(tree):
        if re.fullmatch("--[a-z][a-z0-9_-]+", text):
            yield text[2:].replace("-", "_")


def _first_texts(tree: ast.AST) -> Iterator[str]:
    """The texts that are first arguments of calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value
