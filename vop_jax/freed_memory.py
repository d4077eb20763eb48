"""Memory that was freed, kept for what is allocated next."""

import ctypes
import importlib.util
import os
import sys

# What JAX computes on anything but a CPU with.
_ACCELERATORS = ("libtpu", "jax_plugins")
# Names and numbers of glibc's malloc.h, and the values set.
_SETTINGS = {
    "M_TRIM_THRESHOLD": (-1, -1),  # nothing goes back to the system
    "M_MMAP_MAX": (-4, 0),  # nor does a large block live outside the heap
    "M_ARENA_MAX": (-8, 1),  # what one thread has freed serves another
}


def is_cpu_alone() -> bool:
    """Whether JAX has nothing but a CPU to compute on; JAX is not imported for it.

    Beside an accelerator the host's many decoding threads are what allocates, and they
    would queue for the one heap.
    """
    if "JAX_PLATFORMS" in os.environ:
        return os.environ["JAX_PLATFORMS"] == "cpu"
    return not any(importlib.util.find_spec(name) for name in _ACCELERATORS)


def keep_freed_memory() -> bool:
    """Has the C library keep what is freed, where it is glibc's.

    On a CPU a train step's temporaries are allocated anew each time. Given back to the
    system in between, every page of them is zeroed and mapped again at its first use,
    which costs up to a third of the step.

    Returns:
        Whether all of it could be set.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    done = [set_option(*setting) for setting in _SETTINGS.values()]
    return all(done)
