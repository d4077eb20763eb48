"""`--help` and `import vop_jax` import little, so that they answer at once."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from vop_jax.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
# Each takes a tenth of a second or more, or brings one with it that does.
HEAVY = {
    *("PIL", "absl", "apache_beam", "av", "etils", "fastapi", "flax", "ftfy", "jax"),
    *("huggingface_hub", "jaxtyping", "matplotlib", "ml_collections", "numpy", "optax"),
    *(
        "lancedb",
        "orbax",
        "pyarrow",
        "pydantic",
        "rich",
        "safetensors",
        "tensorflow",
        "tensorflow_datasets",
    ),
    *("tokenizers", "torch", "transformers"),
}
# What defines the flags of a command that takes a configuration.
_FLAGS = {"absl", "ml_collections"}
HELPS = {
    ("vop_jax",): set(),
    **{(module,): set() for module in COMMANDS.values()},
    **{("vop_jax.search", x): set() for x in ("index", "query", "serve", "export")},
    ("vop_jax.demo.pretrain",): set(),
    ("vop_jax.main",): _FLAGS,
    ("vop_jax.train",): _FLAGS,
    ("vop_jax.parameters",): _FLAGS,
    ("vop_jax.pod_plan",): _FLAGS,
}
# Seconds of processor time. Three times what a help takes, and less than JAX alone.
MOST_SECONDS = 0.6


def python(*arguments):
    """Runs Python in the repository; returns its output and its list of imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, done.stderr


def heavy_imports(*arguments):
    """The heavy packages that a run of Python imports."""
    lines = [x for x in python(*arguments)[1].splitlines() if x.startswith("import ")]
    return HEAVY & {x.rpartition("|")[2].strip() for x in lines}


def least_seconds(*arguments):
    """Processor time; the least of three runs, since other programs only add to it."""

    def once():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python(*arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return sum(getattr(after, x) - getattr(before, x) for x in _USED)

    return min(once() for _ in range(3))


_USED = ("ru_utime", "ru_stime")


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_a_help_imports_what_it_needs(command):
    assert heavy_imports("-m", *command, "--help") == HELPS[command]


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_a_help_answers_at_once(command):
    assert least_seconds("-m", *command, "--help") < MOST_SECONDS


def test_the_package_imports_nothing_heavy():
    assert not heavy_imports("-c", "import vop_jax")
    assert least_seconds("-c", "import vop_jax") < MOST_SECONDS / 3


def test_the_checks_find_what_they_are_for():
    """Negative control."""
    assert "jax" in heavy_imports("-c", "import jax")
    busy = f"import time\nwhile time.process_time() < {MOST_SECONDS}: pass"
    assert least_seconds("-c", busy) > MOST_SECONDS
    # A configuration is data; what reads it need not compute.
    config = "from vop_jax.training.config import default_values; default_values()"
    assert not heavy_imports("-c", config)
