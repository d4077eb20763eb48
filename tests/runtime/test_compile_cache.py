"""Compiled programs are found again by the next process."""

import os
import subprocess
import sys

import pytest

from vop_jax.runtime.startup import LEAST_SECONDS, VARIABLE

# What the tests themselves are run with.
OWN = (VARIABLE, LEAST_SECONDS)

PROGRAM = """
import os
from vop_jax.runtime.startup import keep_programs
keep_programs()
import jax
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None
)
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((3, 3))).block_until_ready()
print(len(hits))
"""


# What a query of a small model compiles, and how often it was not found.
QUERY = """
from vop_jax.runtime.startup import start_up
start_up()
import jax
import vop_jax
missed = []
jax.monitoring.register_event_listener(
    lambda event, **_: missed.append(event) if event.endswith("/cache_misses") else None
)
vop_jax.load("demo", towers=["text"]).encode_texts(["a red circle"])
print(len(missed))
"""


def run(program=PROGRAM, **variables):
    clean = {k: v for k, v in os.environ.items() if k not in OWN}
    done = subprocess.run(
        [sys.executable, "-c", program],
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


@pytest.mark.slow
def test_the_second_query_compiles_nothing(tmp_path):
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    assert run(QUERY, **home)[0] > 0
    missed, noise = run(QUERY, **home)
    assert missed == 0
    assert not noise


@pytest.mark.parametrize("where", ["", "file"])
def test_switched_off_or_impossible_it_still_runs(tmp_path, where):
    (tmp_path / "file").touch()
    switch = {VARIABLE: ""} if not where else {"XDG_CACHE_HOME": str(tmp_path / where)}
    assert run(**switch)[0] == 0
    assert run(**switch)[0] == 0
