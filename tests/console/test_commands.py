"""`vop-jax`: the table of commands, and how one is started."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import vop_jax
from vop_jax.__main__ import COMMANDS, arguments_of, main

ROOT = Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'vop_jax/configs/vop.py'}"


def run(monkeypatch, *arguments):
    """The status that the command ends with."""
    monkeypatch.setattr(sys, "argv", ["vop-jax", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_overview_is_the_help(monkeypatch, capsys, arguments):
    assert run(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_the_version_is_printed(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"vop_jax {vop_jax.__version__}\n"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("trian", "'trian' is not a command; did you mean train?"),
        ("podplan", "'podplan' is not a command; did you mean pod-plan?"),
        ("x" * 10**5, "is not a command; see vop-jax --help"),
        ("--verbose", "'--verbose' comes before a command; see vop-jax --help"),
        ("", "'' is not a command; see vop-jax --help"),
    ],
)
def test_what_is_no_command_is_one_line(monkeypatch, capsys, given, says):
    assert run(monkeypatch, given) == 2
    line = capsys.readouterr().err
    assert says in line
    assert line.count("\n") == 1
    assert len(line) < 250


@pytest.mark.parametrize("spelled", ["pod-plan", "pod_plan"])
def test_a_command_is_its_module_with_the_arguments_behind_it(monkeypatch, spelled):
    started = []
    monkeypatch.setattr(
        "runpy.run_module", lambda *given, **_: started.append((given, sys.argv))
    )
    monkeypatch.setattr(sys, "argv", ["vop-jax", spelled, "--json"])
    main()
    assert started == [(("vop_jax.pod_plan",), ["vop-jax", CONFIG, "--json"])]


@pytest.mark.parametrize(
    ("name", "given", "added"),
    [
        ("train", [], True),
        ("train", ["--config.epochs=1", "--workdir=x"], True),
        ("train", ["--config=mine.py"], False),
        ("train", ["--config", "mine.py"], False),
        ("train", ["-config=mine.py"], False),
        ("parameters", [], False),
        ("search", ["index"], False),
    ],
)
def test_the_installed_configuration_stands_in_for_none(name, given, added):
    assert arguments_of(name, given) == [CONFIG] * added + given


@pytest.mark.slow
def test_a_command_runs_from_any_folder(tmp_path):
    """Its arguments, its output and its status are those of the module."""
    command = [sys.executable, "-m", "vop_jax"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    options["env"] = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*command, "parameters", "--json"], **options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    done = subprocess.run([*command, "ablate", "--study=tabel1"], **options)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    # The short form reaches the configuration that was not named.
    done = subprocess.run([*command, "train", "--config.method=vip"], **options)
    assert done.returncode == 2
    assert "'vip' is not one of" in done.stderr
