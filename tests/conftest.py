"""Every test sees eight fake devices, on the CPU, and no Triton."""

import os
import shutil
import signal
import sys
import tempfile
import time
from importlib.metadata import version

import pytest

# Before JAX is imported anywhere. Unoptimised code compiles several times faster, and
# compiling is what most tests spend their time on. Kernels of fusions that are emitted
# one by one, and code that is split for parallel compilation, treble that again.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
# Later versions end the process over this one.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

# A shell that runs the tests in the background makes them ignore Ctrl-C, and with them
# every command that they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from data_pipelines.console.terminal import quiet_libraries
from vop_jax.runtime.startup import LEAST_SECONDS
from vop_jax.runtime.startup import VARIABLE as CACHE

quiet_libraries()
# PyTorch imports Triton where it is installed; both its library and XLA's hold LLVM,
# and the process crashes.
sys.modules["triton"] = None  # pyright: ignore[reportArgumentType]

_STARTED = time.monotonic()
# What one test has compiled, the next one takes: all workers and all commands that they
# start share a folder, which goes when the tests are over.
_IS_FIRST = "PYTEST_XDIST_WORKER" not in os.environ
if _IS_FIRST:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="vop_jax-tests-")
    os.environ[LEAST_SECONDS] = "0.2"


@pytest.fixture(autouse=True)
def compile_cache_of_each_test():
    """Lets no later test write compiled programs into a folder of one that is over.

    JAX goes on using the folder that it found first, also when it is set to another,
    and the folder goes with the test.
    """
    jax = sys.modules.get("jax")
    before = jax.config.jax_compilation_cache_dir if jax else None
    yield
    if jax := sys.modules.get("jax"):
        from jax.experimental.compilation_cache import compilation_cache

        if jax.config.jax_compilation_cache_dir != before:
            jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


def pytest_addoption(parser):
    parser.addoption(
        "--minutes",
        type=float,
        default=float("inf"),
        help="leave out, and count as skipped, what has not started by then",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    minutes = item.config.getoption("--minutes")
    if time.monotonic() - _STARTED >= 60 * minutes:
        pytest.skip(f"left out: {minutes:g} minutes were over")


def pytest_unconfigure():
    if _IS_FIRST:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)
