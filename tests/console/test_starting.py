"""Ctrl-C and SIGTERM in real processes that still import what their command needs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vop_jax.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
SLOW = "import time\nprint('in', flush=True)\ntime.sleep(60)\n"


def ended(folder, *arguments, number=signal.SIGINT):
    for name in ("argparse", "ast", "numpy"):
        (folder / f"{name}.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "in\n"
    process.send_signal(number)
    try:
        out, said = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, said


@pytest.mark.parametrize("module", ["vop_jax", *COMMANDS.values()])
def test_a_command_that_is_still_imported_ends_in_one_line(tmp_path, module):
    assert ended(tmp_path, "-m", module, "-m") == (130, "", "interrupted\n")


def test_so_does_one_that_is_told_to_terminate(tmp_path):
    found = ended(tmp_path, "-m", "vop_jax.evaluate", number=signal.SIGTERM)
    assert found == (143, "", "terminated\n")


def test_it_is_told_from_the_joined_form_too(tmp_path):
    found = ended(tmp_path, "-W", "ignore", "-mvop_jax.evaluate", "a b")
    assert found == (130, "", "interrupted\n")


@pytest.mark.parametrize("started", ["module", "code"])
def test_a_program_of_others_keeps_its_own_way(tmp_path, started):
    code = (
        "try:\n    import vop_jax, data_pipelines, numpy\n"
        "except KeyboardInterrupt:\n    print('mine')\n"
    )
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "__init__.py").write_text(code)
    (tmp_path / "others" / "__main__.py").write_text("")
    how = ("-m", "others") if started == "module" else ("-c", code)
    assert ended(tmp_path, *how) == (0, "mine\n", "")


def test_in_the_background_a_script_s_command_is_left_alone(tmp_path):
    (tmp_path / "argparse.py").write_text(SLOW)
    command = f"{sys.executable} -m vop_jax.evaluate & echo $!; wait"
    shell = subprocess.Popen(
        ["sh", "-c", command],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    number = int(shell.stdout.readline())
    try:
        assert shell.stdout.readline() == "in\n"
        os.kill(number, signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            shell.wait(1)
    finally:
        os.kill(number, signal.SIGKILL)
        shell.communicate()
