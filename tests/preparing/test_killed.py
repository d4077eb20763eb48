"""Preparation killed again and again ends in the bytes of an unbroken one."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from films import custom_set

KILLS, VIDEOS = 10, 60


def start(source, output):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "data_pipelines.prepare", "--dataset=custom"),
            *(f"--videos={source / 'videos'}", f"--annotations={source / 'rows.csv'}"),
            *(f"--output={output}", "--num_frames=2", "--image_size=16"),
        ],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finished(output):
    """How much there is of it: frames of videos, and files of shards."""
    partial = output / "2x16" / ".custom.partial"
    # Unlike a glob, walking does not mind a folder that goes meanwhile.
    names = [name for _, _, files in os.walk(partial) for name in files]
    return sum(not name.endswith(".partial") and name != "lock" for name in names)


def content(output):
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_ten_kills_change_no_byte(tmp_path):
    source = custom_set(tmp_path, train=VIDEOS - 4)
    assert start(source, tmp_path / "whole").wait(300) == 0
    expected = content(tmp_path / "whole")
    assert len(expected) == 7
    # Points all over the work, up to the writing of shards.
    seed = int(time.time())
    points = np.random.default_rng(seed).choice(VIDEOS + 2, KILLS, replace=False) + 1
    output, killed = tmp_path / "killed", 0
    for point in sorted(points):
        process = start(source, output)
        while process.poll() is None and finished(output) < point:
            time.sleep(0.002)
        killed += process.poll() is None
        process.kill()
        process.wait()
    # The last few points may lie within one moment of the end.
    assert killed >= KILLS - 2, seed
    assert start(source, output).wait(300) == 0
    assert content(output) == expected, seed
