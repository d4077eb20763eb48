"""Users without an entry or a home, closed pipes, full outputs, encodings, colours."""

import io
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from fake_bucket import bucket  # noqa: F401

from data_pipelines.console import surroundings
from data_pipelines.console.errors import command
from data_pipelines.preparing.shard_files import file_size

ROOT = Path(__file__).parents[2]


def nobody(*_):
    raise KeyError("uid not found")


@pytest.fixture
def unknown_user(monkeypatch):
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


def test_without_a_home_there_is_one(unknown_user, tmp_path, monkeypatch):
    import getpass
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError):
        Path.home()
    surroundings.settle()
    home = Path.home()
    assert home.parent == tmp_path
    assert home.stat().st_mode & 0o777 == 0o700
    assert getpass.getuser() == f"uid{os.getuid()}"


@pytest.mark.parametrize("kind", ["open", "link"])
def test_a_folder_that_others_can_write_is_no_home(
    kind, unknown_user, tmp_path, monkeypatch
):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    usual = tmp_path / f"vop_jax-{os.getuid()}"
    if kind == "open":
        usual.mkdir()
        usual.chmod(0o777)
    else:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        usual.symlink_to(tmp_path / "elsewhere")
    surroundings.settle()
    assert Path.home() != usual
    assert Path.home().parent == tmp_path


def test_a_home_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    surroundings.settle()
    assert os.environ["HOME"] == str(tmp_path)
    assert "MPLCONFIGDIR" not in os.environ
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    surroundings.settle()
    assert Path(os.environ["MPLCONFIGDIR"]).is_dir()
    monkeypatch.delenv("MPLCONFIGDIR")


def test_files_of_an_unknown_owner_are_measured(tmp_path, monkeypatch):
    file = tmp_path / "x"
    file.write_bytes(b"12345")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(KeyError):
        epath.Path(file).stat()
    assert file_size(str(file)) == 5


def python(source, *arguments, shell="{}", **variables):
    """Runs a command in a shell line, with nothing but PATH in its environment."""
    program = [sys.executable, "-c", source, *arguments]
    line = shell.format(" ".join(f"'{x}'" for x in program))
    return subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", line],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )


TALK = """
from data_pipelines.console.errors import command
from data_pipelines.console.terminal import say, table
@command
def main():
    say("\\xb1 \\xe9 \\udcff \\u8996")
    table("\\xb1 title", ["a", "b"], [["\\u8996", "1 \\xb1 2"]])
    say("x" * 200000)
main()
"""


def test_a_closed_pipe_ends_a_command_quietly():
    done = python(TALK, shell="{} | head -c 1")
    assert (done.returncode, done.stderr) == (141, "")
    help_line = "-m vop_jax.evaluate --help | true"
    done = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", f"{sys.executable} {help_line}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 141)
    assert not done.stderr


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(streams):
    done = python(TALK, shell=f"{{}} {streams}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_output_is_one_line():
    done = python(TALK, shell="{} > /dev/full")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "utf-8"},
    ],
)
def test_any_encoding(variables):
    done = python(TALK, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\udcff" in done.stdout


def test_another_broken_pipe_is_an_error():
    @command
    def main():
        raise BrokenPipeError("a worker's")

    with pytest.raises(BrokenPipeError):
        main()


def test_no_style_where_no_colour_is_wanted(monkeypatch):
    from data_pipelines.console import terminal

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for value, styled in (("", True), ("1", False)):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", value)
        monkeypatch.setattr(sys, "stdout", Terminal())
        terminal.table("title", ["a"], [["b"]])
        assert ("\x1b" in sys.stdout.getvalue()) == styled


SETPRIV = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
# The Python of this machine may lie in a folder that only root can read.
SETPRIV += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="root")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["vop_jax"], 0),
        (["vop_jax.main", "--help"], 0),
        (["vop_jax.main", "--config=configs/vop.py", "--config.epochs=0"], 2),
        (["vop_jax.parameters", "--config=configs/vop.py:backbone=vit_b32"], 0),
        (["vop_jax.search", "query", "--index=/nowhere", "x"], 2),
        (["vop_jax.convert", "--input=/nowhere", "--output=/nowhere/x"], 2),
        (["vop_jax.ablate", "--study=tabel1"], 2),
        (["vop_jax.evaluate", "--checkpoint=/nowhere", "--dataset=demo"], 2),
    ],
)
def test_a_user_without_entry_or_home(arguments, status):
    done = subprocess.run(
        [*SETPRIV, sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == (1 if status else 0)
