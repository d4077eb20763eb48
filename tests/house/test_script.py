"""run.sh: which Python it takes, what it makes of a .venv, how it fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A Python as far as run.sh can tell, of a version and with modules that a test chooses.
STUB = """#!/bin/bash
version={version} modules="{modules}"
case "$*" in
  *"%d.%d"*) echo "$version" ;;
  *base_prefix*) echo "${{version/./ }} {prefix}" ;;
  *"import venv, ensurepip"*) [[ $modules == *ensurepip* ]] ;;
  *flock*) ;;
  *"import pip"*) [[ $modules == *" pip" ]] ;;
  "-m venv --clear "*)
    rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && touch "$4/pyvenv.cfg"
    echo "venv by {prefix}" >> made.txt ;;
  "-m pip install"*) echo "pip $*" >> made.txt ;;
  *) shift; echo "ran $*" ;;
esac
"""


def write_stub(path, version="3.11", modules="ensurepip pip", prefix="/usr"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STUB.format(version=version, modules=modules, prefix=prefix))
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path):
    """A copy of the script in a folder with a space in its name, and no Python."""
    folder = tmp_path / "a copy"
    folder.mkdir()
    shutil.copy(ROOT / "run.sh", folder)
    for name in ("requirements.txt", "requirements-test.txt"):
        (folder / name).write_text("# Nothing.\n")
    # What the script itself needs, and no Python of this machine beside it.
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "cat", "cksum", "cp", "cut", "dirname", "basename", "grep"):
        (tools / name).symlink_to(shutil.which(name))
    for name in ("mkdir", "readlink", "rm", "tail", "touch", "env", "sleep"):
        (tools / name).symlink_to(shutil.which(name))
    return folder


def run(home, *arguments, script=None, cwd=None, check=None, **variables):
    done = subprocess.run(
        [script or home / "run.sh", *arguments],
        cwd=cwd or home,
        env={"PATH": f"{home.parent}/bin:{home.parent}/tools", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if check is not None:
        assert done.returncode == check, done.stderr
    return done


def refused(done):
    """The one line of a refusal."""
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert not done.stdout
    return done.stderr


def made(home):
    return (home / "made.txt").read_text().splitlines()


def test_no_python_or_an_unsupported_one_is_the_end(home):
    assert "(found: none)" in refused(run(home, "x"))
    write_stub(home.parent / "bin/python3", "3.10")
    line = refused(run(home, "x"))
    assert "Python 3.11, 3.12 or 3.13 is needed" in line
    assert "python3 is Python 3.10" in line
    assert not (home / ".venv").exists()


def test_the_first_python_that_fits_is_taken(home):
    write_stub(home.parent / "bin/python3.11", modules="no pip", prefix="/no-ensurepip")
    write_stub(home.parent / "bin/python3.12", "3.12", prefix="/good")
    done = run(home, "--config=x y", check=0)
    assert done.stdout == "ran vop_jax.main --config=x y\n"
    assert made(home)[0] == "venv by /good"


def test_the_first_of_several_is_the_one_that_all_tests_run_on(home):
    for version in ("3.12", "3.13", "3.11"):
        path = write_stub(home.parent / f"bin/python{version}", version)
        done = run(home, "python", check=0)
        assert done.stdout == f"{path}\n"
        assert not (home / ".venv").exists()


def test_a_version_can_be_asked_for(home):
    write_stub(home.parent / "bin/python3.11", prefix="/old")
    line = refused(run(home, "x", PYTHON="3.13"))
    assert "Python 3.13 is not installed (found: none)" in line
    write_stub(home.parent / "bin/python3", "3.13", prefix="/new")
    run(home, "x", PYTHON="3.13", check=0)
    assert made(home)[0] == "venv by /new"
    assert "it is not of PYTHON=3.11" in run(home, "x", PYTHON="3.11", check=0).stderr


def test_a_version_that_pyenv_has_not_selected_is_found(home, tmp_path):
    shim = home.parent / "bin/python3.13"
    shim.parent.mkdir()
    shim.write_text("#!/bin/bash\nexit 127\n")
    shim.chmod(0o755)
    assert "not a Python that starts" in refused(run(home, "x", PYTHON="3.13"))
    place = write_stub(tmp_path / ".pyenv/versions/3.13.0/bin/python3.13", "3.13")
    for where in ({"HOME": tmp_path}, {"PYENV_ROOT": tmp_path / ".pyenv"}):
        assert run(home, "python", check=0, **where).stdout == f"{place}\n"


UV = """#!/bin/bash
[ "$1" = python ] || exit 9
case $2 in
  find) [ "$4" = 3.11 ] && [ -e {place} ] && echo {place} ;;
  install) [ "$3" = 3.11 ] && echo "uv $*" >> made.txt && mv {place}.away {place} ;;
esac
"""


def test_uv_is_asked_for_a_python_where_there_is_none(home, tmp_path):
    place = write_stub(tmp_path / "uvs/python.away", prefix="/uv").with_suffix("")
    uv = home.parent / "bin/uv"
    uv.parent.mkdir()
    uv.write_text(UV.format(place=place))
    uv.chmod(0o755)
    (home.parent / "tools/mv").symlink_to(shutil.which("mv"))
    assert run(home, "x", check=0).stdout == "ran vop_jax.main x\n"
    assert made(home)[:2] == ["uv python install 3.11", "venv by /uv"]
    # One that it has is not installed again.
    shutil.rmtree(home / ".venv")
    run(home, "x", check=0)
    assert [x.split()[0] for x in made(home)] == ["uv", "venv", "pip", "venv", "pip"]


def test_another_environment_can_be_named(home):
    write_stub(home.parent / "bin/python3.11")
    write_stub(home.parent / "bin/python3.13", "3.13", prefix="/new")
    run(home, "x", check=0)
    run(home, "x", VENV=".venv-3.13", PYTHON="3.13", check=0)
    assert (home / ".venv-3.13/bin/python").is_file()
    assert [x for x in made(home) if "venv" in x[:4]] == [
        "venv by /usr",
        "venv by /new",
    ]
    for name in ("../.venv", "data"):
        assert "is not the name of an environment" in refused(run(home, VENV=name))


def test_a_python_without_ensurepip_names_the_package(home):
    write_stub(home.parent / "bin/python3.11", modules="no pip")
    assert "apt install python3.11-venv" in refused(run(home, "x"))


@pytest.mark.parametrize(
    ("python", "says"),
    [
        ("/nowhere/python", "does not exist"),
        ("python9", "does not exist"),
        ("bin/old", "is Python 3.14"),
        ("bin/text", "is not an executable file"),
        ("./bin", "is a folder"),
        ("bin/broken", "is not a Python that starts"),
        ("bin/silent", "is not a Python;"),
        ("bin/bare", "lacks the modules"),
        ("./bin/new", "does not exist"),
    ],
)
@pytest.mark.parametrize("installed", [False, True])
def test_a_named_python_that_does_not_fit_is_refused(home, python, says, installed):
    folder = home.parent / "bin"
    write_stub(folder / "python3.11")
    write_stub(folder / "old", "3.14")
    write_stub(folder / "bare", modules="no pip")
    (folder / "text").write_text("")
    for name, status in (("broken", 3), ("silent", 0)):
        (folder / name).write_text(f"#!/bin/bash\nexit {status}\n")
        (folder / name).chmod(0o755)
    if installed:
        run(home, "x", check=0)
    line = refused(run(home, "x", PYTHON=python, cwd=home.parent))
    assert f"PYTHON={python} {says}" in line
    assert (home / ".venv").exists() == installed


@pytest.mark.parametrize(
    ("file", "says"), [("none.txt", "does not exist"), (".", "is not a file")]
)
def test_requirements_that_are_no_file_are_refused(home, file, says):
    line = refused(run(home, "x", REQUIREMENTS=file))
    assert f"{file} {says}; set REQUIREMENTS to one of" in line


def test_a_relative_python_is_of_the_folder_the_command_was_given_in(home):
    write_stub(home.parent / "bin/mine", "3.12", prefix="/mine")
    run(home, "x", PYTHON="bin/mine", cwd=home.parent, check=0)
    assert made(home)[0] == "venv by /mine"


def test_the_second_time_nothing_is_installed(home):
    write_stub(home.parent / "bin/python3.11")
    run(home, "x", check=0)
    assert len(made(home)) == 2
    done = run(home, "x", check=0)
    assert len(made(home)) == 2
    assert not done.stderr
    (home / "requirements.txt").write_text("# Other.\n")
    run(home, "x", check=0)
    assert [x.split()[0] for x in made(home)] == ["venv", "pip", "pip"]


def no_python(home):
    (home / ".venv/bin/python").unlink()
    (home / ".venv/bin/python").symlink_to("/nowhere/python")


def no_pip(home):
    write_stub(home / ".venv/bin/python", modules="ensurepip")


def interrupted(home):
    (home / ".venv/installing").touch()


def of_an_old_python(home):
    write_stub(home / ".venv/bin/python", "3.10")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (no_python, "its Python does not start"),
        (no_pip, "it was not finished"),
        (interrupted, "an installation into it was interrupted"),
        (of_an_old_python, "it is of Python 3.10"),
    ],
)
def test_an_environment_that_does_not_work_is_made_anew(home, damage, says):
    write_stub(home.parent / "bin/python3.11")
    run(home, "x", check=0)
    damage(home)
    done = run(home, "x", check=0)
    assert done.stdout == "ran vop_jax.main x\n"
    assert f"making .venv anew with python3.11: {says}" in done.stderr
    assert [x.split()[0] for x in made(home)] == ["venv", "pip"] * 2
    assert not run(home, "x", check=0).stderr


def test_its_python_imports_the_project_from_where_it_lies(home):
    write_stub(home.parent / "bin/python3.11")
    run(home, "x", check=0)
    packages = home / ".venv/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    run(home, "x", check=0)
    assert (packages / "vop_jax.pth").read_text() == f"{home}\n"
    moved = home.rename(home.parent / "moved")
    run(moved, "x", check=0)
    where = moved / ".venv/lib/python3.11/site-packages/vop_jax.pth"
    assert where.read_text() == f"{moved}\n"


def test_another_python_than_asked_for_is_replaced_when_it_is_asked_for(home):
    write_stub(home.parent / "bin/python3.11", prefix="/one")
    write_stub(home.parent / "bin/other", "3.12", prefix="/other")
    run(home, "x", check=0)
    run(home, "x", PYTHON="python3.11", check=0)
    assert len(made(home)) == 2
    assert "it is not of PYTHON=other" in run(home, "x", PYTHON="other", check=0).stderr
    assert made(home)[2] == "venv by /other"
    run(home, "x", check=0)
    assert len(made(home)) == 4


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_it_did_not_make_it_does_not_remove(home, kind):
    write_stub(home.parent / "bin/python3.11")
    venv, elsewhere = home / ".venv", home.parent / "elsewhere"
    if kind == "file":
        venv.write_text("mine")
    elif kind == "folder":
        venv.mkdir()
        (venv / "mine").touch()
    else:
        elsewhere.mkdir()
        (elsewhere / "mine").touch()
        # Made by somebody for several projects, say; and no longer working.
        (elsewhere / "pyvenv.cfg").touch()
        venv.symlink_to(elsewhere)
    assert "was not made by this script" in refused(run(home, "x"))
    assert kind != "file" or venv.read_text() == "mine"
    assert kind == "file" or (venv / "mine").exists()


def test_it_works_through_a_link_and_from_anywhere(home, tmp_path):
    write_stub(home.parent / "bin/python3.11")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "second").symlink_to("../first")
    (tmp_path / "first").symlink_to("a copy/run.sh")
    link = tmp_path / "links" / "second"
    done = run(home, "x", script=link, cwd="/", check=0, CDPATH=str(tmp_path))
    assert done.stdout == "ran vop_jax.main x\n"
    assert (home / ".venv").is_dir()


def test_a_folder_that_cannot_be_written_is_one_line(home):
    write_stub(home.parent / "bin/python3.11")
    home.chmod(0o555)
    script = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    if os.getuid():
        script = []
    elif not shutil.which("setpriv"):
        pytest.skip("root writes everywhere")
    for parent in [home, *home.parents][: -len(Path("/tmp").parts)]:
        if not os.getuid() and not parent.stat().st_mode & 0o005:
            parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run(
        [*script, home / "run.sh", "x"],
        env={"PATH": f"{home.parent}/bin:{home.parent}/tools:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    home.chmod(0o755)
    assert "cannot be written" in refused(done)


def test_two_at_a_time_install_once(home):
    stub = write_stub(home.parent / "bin/python3.11")
    # The lock is taken by a real Python; the second one waits for the first.
    source = stub.read_text().replace(
        "*flock*) ;;", f'*flock*) exec "{sys.executable}" "$@" ;;'
    )
    stub.write_text(source.replace('echo "pip $*"', 'sleep 1; echo "pip $*"'))
    command = [home / "run.sh", "x"]
    environment = {"PATH": f"{home.parent}/bin:{home.parent}/tools"}
    started = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert [x.split()[0] for x in made(home)] == ["venv", "pip"]
    assert sum("waiting for another ./run.sh" in x for x in said) == 2


@pytest.mark.slow
def test_with_a_real_python_it_installs_and_says_in_one_line_why_not(home):
    """No network, then a file that asks for nothing: the same command goes on."""
    (home / "requirements.txt").write_text("no-such-thing-anywhere==1.0\n")
    (home / "vop_jax").mkdir()
    (home / "vop_jax/main.py").write_text("import sys; print('main', *sys.argv[1:])\n")
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "1"}
    offline["PYTHON"] = sys.executable
    done = run(home, "x", **offline)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first == "installing requirements.txt into .venv ..."
    assert "the package index cannot be reached" in second
    assert second.startswith("error: requirements.txt cannot be installed")
    (home / "requirements.txt").write_text("# Nothing.\n")
    done = run(home, "x", **offline)
    assert (done.returncode, done.stdout) == (0, "main x\n")
    assert "anew" not in done.stderr
    # A folder that was moved still works.
    moved = home.with_name("moved away")
    home.rename(moved)
    assert run(moved, "x", **offline, check=0).stdout == "main x\n"
