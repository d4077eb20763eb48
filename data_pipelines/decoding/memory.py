"""Memory limits of a process that reads untrusted videos.

A few bytes of a file can state that it has a billion frames, and FFmpeg allocates a
table for as many. Such a process therefore limits its memory: to a fixed amount, and
to less while only the tables of a file are read.
"""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

# Most bytes that opening a file and listing its packets may add; the four million
# frames that a file may have need a third of it.
TABLES = 384 << 20

_limited = False


def limit_process(memory: int) -> None:
    """Limits the memory that a file can take from the machine.

    Args:
        memory: bytes of address space; at most half of the machine's memory is given.
    """
    global _limited
    with contextlib.suppress(OSError, ValueError):
        half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        memory = min(memory, half)
    # On a system that lacks one of these limits, the time limit remains.
    for kind, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):
            lowest, most = resource.getrlimit(kind)
            if lowest == resource.RLIM_INFINITY or lowest > limit:
                resource.setrlimit(kind, (limit, most))
    # If memory runs out all the same, as in a container, the kernel must not kill the
    # parent.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    _limited = True


@contextlib.contextmanager
def reading_tables() -> Iterator[None]:
    """Allows the block `TABLES` bytes more than the process has.

    Only in a process that is limited: in any other, threads that have nothing to do
    with the file would fail.
    """
    taken = _address_space() if _limited else 0
    if not taken:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (min(soft, taken + TABLES), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """The size of this process in bytes, or 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[0]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
