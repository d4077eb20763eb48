"""Mistakes in calls of the search command, each one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("query --index=none x", "/none does not exist; python -m vop_jax.search"),
        ("query --index={root}/README.md x", "README.md is not an index of videos"),
        ("index --videos=none --output=i --checkpoint=c", "/none is not a folder; use"),
        (
            "index --videos=. --output=i --checkpoint=c",
            "holds no video; use another",
        ),
        ("serve --index=i --port=x", "argument --port: 'x' is not a whole number"),
        ("serve --index=i --port=65536", "--port: '65536' is out of range; it must be"),
        ("query --index=none --top=0 x", "--top: '0' is out of range; it must be"),
        ("query --index=none --per_video=0 x", "--per_video: '0' is out of range"),
        ("index --videos=. --output=i --checkpoint=c --moment_seconds=0", "of range"),
        ("query --index=i", "there is no query; pass a text, --image=FILE, or --like"),
        ("query --index=i --like=x", "x is not VIDEO@SECONDS, such as a/film.mp4@12.5"),
        ("query --index=i --since=x y", "x is not a date; write it as 2026-01-31"),
        ("query --index=i --until=9999-12-31 y", "9999-12-31 is not a date; write it"),
        ("query --index=i --min_seconds=-1 y", "--min_seconds: '-1' is out of range"),
        (
            "query --index=i --image={root}/README.md",
            "is not a picture that can",
        ),
        ("query --index=i --image=none.png", "none.png cannot be read (No such file"),
        ("query --index=https://x/y z", "is an address"),
        ("export --index=none --output=x.npy", "/none does not exist"),
    ],
)
def test_a_mistake_is_one_line(arguments, says, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vop_jax.search"),
            *arguments.format(root=ROOT).split(" "),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not list(tmp_path.iterdir())
