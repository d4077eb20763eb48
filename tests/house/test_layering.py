"""Imports go one way between the rooms, and some packages stay out of some places."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("vop_jax", "data_pipelines")
BRANCH = re.compile(r"method *(==|!=|in) *[\[(\"']")
FILES = [x for name in PACKAGES for x in sorted((ROOT / name).rglob("*.py"))]
# A data set's folder, and what stands in it, belong to the room of data sets.
ROOMS = {
    x.parent: x.parent.name
    for x in FILES
    if x.name == "__init__.py" and x.parent.parent.name != "datasets"
}
ALLOWED = re.compile(r"^Imports: ([\w,\s]+)\.$", re.M)


def room_of(path):
    """The room that a file lies in; a door's is its package."""
    while path not in ROOMS:
        path = path.parent
    return ROOMS[path]


def allowed(room):
    """The rooms that a room may import, as its docstring says."""
    (folder,) = (path for path, name in ROOMS.items() if name == room)
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    found = ALLOWED.search(docstring or "")
    assert found, f"{folder}/__init__.py does not say what it may import"
    names = {name.strip() for name in found[1].split(",")}
    return names - {"nothing"}


def imported(source):
    """Every module that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def target_of(module):
    """The file of a module of ours, or of the module that holds a name; else None."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return None
    for stop in (len(parts), len(parts) - 1):
        path = ROOT.joinpath(*parts[:stop])
        for found in (path.with_suffix(".py"), path / "__init__.py"):
            if found.is_file():
                return found
    return ROOT / parts[0] / "nowhere.py"


def is_door(path):
    """Whether a file is a command or the Python surface: the top of a package."""
    return path.parent.parent == ROOT


def wrong_imports(path, source):
    """What a file of a room imports from above it, or what has no place there."""
    room = room_of(path)
    for module in imported(source):
        top = module.split(".")[0]
        if top == "torch" or (top == "tensorflow" and PACKAGES[0] in path.parts):
            yield module
        target = target_of(module)
        if target is None or room_of(target) == room:
            continue
        if is_door(target) or room_of(target) not in allowed(room):
            yield module


@pytest.mark.parametrize(
    "path", [x for x in FILES if not is_door(x)], ids=lambda x: str(x.relative_to(ROOT))
)
def test_a_room_imports_what_its_docstring_allows(path):
    assert not list(wrong_imports(path, path.read_text()))


def test_no_two_rooms_have_one_name():
    assert len(set(ROOMS.values())) == len(ROOMS)


def test_no_room_is_above_itself():
    rooms = set(ROOMS.values()) - set(PACKAGES)
    graph = {room: allowed(room) for room in rooms}
    assert not set().union(*graph.values()) - rooms
    tuple(graphlib.TopologicalSorter(graph).static_order())


def circle_of(sources):
    """The files of an import circle, or an empty list."""
    graph = {
        path: {target_of(module) for module in imported(source)} - {None}
        for path, source in sources.items()
    }
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_itself_by_way_of_others():
    """Not in a function either, nor for types alone: neither can be read first."""
    sources = {x: x.read_text() for x in FILES}
    circle = circle_of(sources)
    assert not circle
    # Negative control.
    towers = ROOT / "vop_jax" / "model" / "towers.py"
    upward = "import vop_jax.model.dual_encoder"
    assert towers in circle_of({**sources, towers: upward})
    assert towers in circle_of({**sources, towers: f"def f():\n  {upward}"})


def test_doors_are_imported_by_doors_alone():
    """`api` is the door that other doors go through."""
    for path in (x for x in FILES if is_door(x) and x.name != "__init__.py"):
        doors = {
            target.name
            for module in imported(path.read_text())
            if (target := target_of(module)) and is_door(target)
        }
        assert doors - {path.name} <= {"api.py", "__init__.py"}, path


def test_the_check_finds_what_it_is_for():
    """Negative control."""
    layers = ROOT / "vop_jax" / "model" / "clip" / "layers.py"
    training = ROOT / "vop_jax" / "training" / "loop.py"
    assert list(wrong_imports(layers, "import vop_jax.model.towers"))
    assert list(
        wrong_imports(layers, "def f():\n  from vop_jax.training.loop import x")
    )
    assert list(wrong_imports(layers, "import torch"))
    assert list(wrong_imports(training, "import tensorflow"))
    assert list(wrong_imports(training, "from vop_jax.main import main"))
    assert list(wrong_imports(training, "from vop_jax.nothing import x"))
    towers = "from vop_jax.model.clip.layers import Block"
    assert not list(wrong_imports(layers.parents[1] / "towers.py", towers))
    assert BRANCH.search('if config.method == "vop":')


@pytest.mark.parametrize(
    "path", sorted((ROOT / "data_pipelines").rglob("*.py")), ids=lambda x: x.name
)
def test_the_data_side_knows_no_jax(path):
    packages = {module.split(".")[0] for module in imported(path.read_text())}
    assert not packages & {"jax", "flax", "optax", "torch", "vop_jax"}


@pytest.mark.parametrize("path", FILES, ids=lambda x: str(x.relative_to(ROOT)))
def test_files_are_short_and_methods_are_rows(path):
    source = path.read_text()
    assert source.count("\n") <= 400
    assert not BRANCH.search(source)


@pytest.mark.parametrize("path", sorted(ROOMS), ids=lambda x: x.name)
def test_a_package_s_file_is_a_docstring(path):
    """Anything more would undo the late imports."""
    tree = ast.parse((path / "__init__.py").read_text())
    assert ast.get_docstring(tree)
    started = {ROOT / "vop_jax", ROOT / "data_pipelines"}
    assert len(tree.body) == 1 or path in started
