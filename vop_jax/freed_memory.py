"""Memory that was freed, kept for what is allocated next."""

import ctypes
import sys

# Names and numbers of glibc's malloc.h, and the values set.
_SETTINGS = {
    "M_TRIM_THRESHOLD": (-1, -1),  # nothing goes back to the system
    "M_MMAP_MAX": (-4, 0),  # nor does a large block live outside the heap
    "M_ARENA_MAX": (-8, 1),  # what one thread has freed serves another
}


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
