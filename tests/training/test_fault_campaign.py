"""A small version of `benchmarks.faults`, with its controls."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.campaign
def test_nothing_is_restored_wrong(tmp_path):
    figures = tmp_path / "figures.json"
    counts = ("--kills=5", "--terms=3", "--pairs=2", "--damages=80")
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.faults", *counts),
            *("--work", tmp_path / "work", "--json", figures),
        ],
        cwd=ROOT,
        # One device, whatever the other tests pretend to have.
        env=os.environ | {"XLA_FLAGS": ""},
        check=True,
        timeout=1800,
        stdout=subprocess.DEVNULL,
    )
    found = json.loads(figures.read_text())
    for part in ("sigkill", "sigterm", "two_processes"):
        assert found[part]["restores"] > 0
        assert found[part]["bad_restores"] == found[part]["bad_ends"] == 0
        assert found[part]["finished"] > 0
    # What ran while the last save was being written is lost with it.
    assert found["sigkill"]["most_steps_lost"] <= 2 * found["sigkill"]["save_every"]
    assert found["sigterm"]["most_steps_lost"] == 0
    assert found["two_processes"]["survivors_with_status_75"] == 2
    assert found["damage"]["silently_wrong"] == found["damage"]["refused"] == 0
    controls = found["controls"]
    assert controls["without_the_moments"] == {"bad_restores": 1, "bad_ends": 1}
    assert controls["without_fingerprints"]["silently_wrong"] > 0
