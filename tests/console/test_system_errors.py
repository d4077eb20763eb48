"""Errors of the operating system that no reader expects: one line and status 2."""

import errno
import os
import shutil

import pytest

from data_pipelines import dummy
from data_pipelines.console.arguments import local_path
from data_pipelines.console.errors import UserError, command, on_one_line
from data_pipelines.console.terminal import warn


def ended(error, capsys):
    """The status and the lines of a command that raises this error."""

    @command
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b cannot be"),
        (OSError(errno.ENAMETOOLONG, "File name too long", b"/b"), "(File name too"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/f/x"), "/f/x"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (shutil.Error([("/a", "/b", "[Errno 28] No space: '/a'")]), "No space: '/a'"),
        (MemoryError("Unable to allocate 9 GiB"), "not enough memory (Unable"),
    ],
)
def test_they_are_one_line(error, says, capsys):
    status, line = ended(error, capsys)
    assert status == 2
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert says in line


@pytest.mark.parametrize(
    "error", [OSError("a bug"), ConnectionResetError(errno.ECONNRESET, "x"), KeyError()]
)
def test_a_bug_keeps_its_traceback(error):
    @command
    def main():
        raise error

    with pytest.raises(type(error)):
        main()


def test_a_message_stays_one_line_whatever_a_file_is_called(capsys):
    name = "/a\n  b/\x1b[31m\udcff/" + "x" * 5000
    status, line = ended(UserError(f"{name} is missing; use another"), capsys)
    assert status == 2
    assert line.count("\n") == 1
    assert line.startswith("error: /a b/\\x1b[31m\\udcff/xxx")
    assert line.endswith("xxx is missing; use another\n") or len(line) < 600
    assert len(on_one_line("word " * 10_000)) <= 4_000
    warn("of\n\x1b]0;title\x07")
    assert capsys.readouterr().err == "warning: of \\x1b]0;title\\x07\n"


@pytest.mark.parametrize("text", ["x/" * 2048, "a\0b"])
def test_what_no_path_can_be_is_refused_as_a_flag(text):
    with pytest.raises(Exception, match="is not a path") as raised:
        local_path(text)
    assert len(str(raised.value)) < 300


def test_dummy_looks_at_the_output_first(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    for output in (file, file / "x"):
        with pytest.raises(UserError, match="is not a folder; use another --output"):
            dummy.write_dummy("custom", output)
    (tmp_path / "videos").symlink_to("nowhere")
    with pytest.raises(UserError, match="videos is not a folder"):
        dummy.write_dummy("custom", tmp_path)
    assert not (tmp_path / "annotations").exists()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written; use another --output"):
        dummy.write_dummy("custom", tmp_path / "new")
