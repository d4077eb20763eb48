"""Freed memory serves the next allocation."""

import subprocess
import sys

import pytest

from vop_jax.runtime.startup import is_cpu_alone

# Counts the pages that a thread's second large block touches for the first time.
PROGRAM = """
import resource, sys, threading
import numpy as np
from vop_jax.runtime.startup import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()


def touch():
    np.full(1 << 23, 1.0)


found = []
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(found[1])
"""


def faults(how):
    run = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(run, capture_output=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_second_block_costs_no_page_faults(monkeypatch):
    # 64 MB are 16,384 pages, or 32 large ones.
    monkeypatch.setenv("NUMPY_MADVISE_HUGEPAGE", "0")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert faults("kept") < 100
    assert faults("as it comes") > 1000


@pytest.mark.parametrize(
    ("platforms", "installed", "alone"),
    [
        ("cpu", ["libtpu"], True),
        ("cuda,cpu", [], False),
        (None, [], True),
        (None, ["libtpu"], False),
        (None, ["jax_plugins"], False),
    ],
)
def test_an_accelerator_s_host_is_left_alone(monkeypatch, platforms, installed, alone):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if platforms:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: name if name in installed else None
    )
    assert is_cpu_alone() is alone
