"""Outputs replace neither what a command reads nor each other."""

import os
from pathlib import Path

import pytest
from etils import epath

from data_pipelines.console.errors import UserError
from data_pipelines.files.outputs import check_outputs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("read.npy").write_text("precious")
    Path("links").mkdir()
    Path("links/to_it").symlink_to(tmp_path / "read.npy")
    os.link("read.npy", "links/same")
    Path("links/folder").symlink_to(tmp_path)
    Path("links/to_new").symlink_to(tmp_path / "new")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("read.npy", "./read.npy", "links/../read.npy", "links/to_it", "links/same"),
        *("links/folder/read.npy", "inner/file", "inner/a/b"),
    ],
)
def test_an_input_is_not_replaced(folder, name):
    inputs = [("matrix", Path("read.npy")), ("run", folder / "inner")]
    with pytest.raises(
        UserError, match=f"--json={Path(name)} (would replace|is inside) .* of --"
    ):
        check_outputs({"json": Path(name)}, inputs)


@pytest.mark.parametrize(
    "other", ["new", "links/folder/new", "links/to_new", "new/below"]
)
def test_two_outputs_are_two_files(folder, other):
    with pytest.raises(
        UserError, match=f"--b={other} (would replace|is inside) new, .* of --a"
    ):
        check_outputs({"a": Path("new"), "b": Path(other)}, [])


def test_stores_are_compared_by_name():
    def path(name):
        return epath.Path(f"gs://bucket/{name}")

    with pytest.raises(UserError, match="--b=gs://bucket/x would replace"):
        check_outputs({"a": path("x"), "b": path("x")}, [])
    with pytest.raises(UserError, match="of --run"):
        check_outputs({"a": path("run/x")}, [("run", path("run"))])
    check_outputs({"a": path("x"), "b": path("xy")}, [("run", path("ru"))])


def test_other_files_may_be_written(folder):
    check_outputs(
        {
            **{"a": Path("new"), "b": Path("new2"), "c": None},
            **{"d": Path("not/yet"), "e": Path("inner2")},
            **{"f": Path("/dev/null"), "g": Path("/dev/null")},
        },
        [("matrix", Path("read.npy")), ("run", Path("inner"))],
    )


@pytest.mark.parametrize("name", [".", "read.npy/x"])
def test_a_place_that_cannot_be_written_is_said(folder, name):
    with pytest.raises(UserError, match=r"cannot be written \(.*\); use another"):
        check_outputs({"json": Path(name)}, [])
