"""Compiled programs are found again by the next process."""

import os
import subprocess
import sys

import pytest

from vop_jax.compile_cache import VARIABLE

PROGRAM = """
import os
from vop_jax.compile_cache import keep_programs
keep_programs()
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None
)
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((3, 3))).block_until_ready()
print(len(hits))
"""


def run(**variables):
    clean = {k: v for k, v in os.environ.items() if k != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=clean | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout), done.stderr


def test_the_second_process_compiles_nothing(tmp_path):
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    assert run(**home)[0] == 0
    hits, noise = run(**home)
    assert hits > 0
    assert not noise


@pytest.mark.parametrize("where", ["", "file"])
def test_switched_off_or_impossible_it_still_runs(tmp_path, where):
    (tmp_path / "file").touch()
    switch = {VARIABLE: ""} if not where else {"XDG_CACHE_HOME": str(tmp_path / where)}
    assert run(**switch)[0] == 0
    assert run(**switch)[0] == 0
