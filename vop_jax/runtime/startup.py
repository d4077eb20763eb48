"""A command's start, before it imports JAX: quiet, cached programs, memory kept."""

import ctypes
import hashlib
import importlib.util
import os
import platform
import sys
from pathlib import Path

from data_pipelines.console.terminal import quiet_libraries

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# Packages with which JAX uses an accelerator.
_ACCELERATORS = ("libtpu", "jax_plugins")
# Options of glibc's `mallopt` (malloc.h): number and value.
_SETTINGS = {
    "M_TRIM_THRESHOLD": (-1, -1),  # return nothing to the system
    "M_MMAP_MAX": (-4, 0),  # allocate large blocks in the heap as well
    "M_ARENA_MAX": (-8, 1),  # one heap for all threads
}


def start_up() -> None:
    """Quiets the libraries, keeps compiled programs and on a CPU freed memory."""
    quiet_libraries()
    keep_programs()
    if is_cpu_alone():
        keep_freed_memory()


def keep_programs() -> None:
    """Caches compiled programs in the user's cache folder, however small they are.

    A search of a small model compiles a few programs of less than a second each, which
    JAX would not keep by default; an entry takes some kilobytes.
    `JAX_COMPILATION_CACHE_DIR` names another folder; if it is empty, nothing is cached.
    `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS` leaves out the quickly compiled ones.
    Does nothing if the folder cannot be created. Works before JAX is imported.
    """
    if VARIABLE not in os.environ:
        try:
            folder = _default_folder()
            folder.mkdir(parents=True, exist_ok=True)
        # `Path.home` raises RuntimeError without a home folder.
        except (OSError, RuntimeError):
            return
        # JAX would warn about every program that it cannot store.
        if not os.access(folder, os.W_OK):
            return
        os.environ[VARIABLE] = str(folder)
    least = os.environ.setdefault(LEAST_SECONDS, "0")
    if "jax" in sys.modules:
        import jax

        jax.config.update("jax_compilation_cache_dir", os.environ[VARIABLE] or None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", float(least))


def _default_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "vop_jax" / "programs" / _processor()


def _processor() -> str:
    """A short hash of the features of this machine's processor.

    Code compiled for one processor may not run on another, and several machines may
    share a home folder.
    """
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else [platform.processor()]
    features = sorted(
        {x for x in lines if x.startswith(("flags", "Features", "model"))}
    )
    digest = hashlib.sha256("".join(features).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:8]}"


def is_cpu_alone() -> bool:
    """Whether JAX has only a CPU, found out without importing JAX.

    With an accelerator, most allocations come from the host's many decoding threads,
    which would contend for the single heap.
    """
    if "JAX_PLATFORMS" in os.environ:
        return os.environ["JAX_PLATFORMS"] == "cpu"
    return not any(importlib.util.find_spec(name) for name in _ACCELERATORS)


def keep_freed_memory() -> bool:
    """Makes the C library keep freed memory, if it is glibc.

    On a CPU a train step allocates its temporaries anew each time. If they are returned
    to the system in between, every page is zeroed and mapped again at first use, which
    costs up to a third of the step.

    Returns:
        Whether all options could be set.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    done = [set_option(*setting) for setting in _SETTINGS.values()]
    return all(done)
