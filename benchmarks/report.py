"""What a benchmark ran on, and where its measurements are written."""

import contextlib
import json
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Seconds between two looks at the memory of processes.
_LOOK_SECONDS = 0.1


def machine() -> dict[str, Any]:
    """The processor's own name, its vector instructions, the number of cores."""
    return {
        "cpu": _cpu_name(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
    }


def peak_mib() -> float:
    """The most memory that this process has held, with Python and the libraries."""
    # Not `ru_maxrss`, which begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@contextlib.contextmanager
def peak_of_tree(pid: int) -> Iterator[Callable[[], float]]:
    """Measures the resident memory of a process and its descendants together.

    Args:
        pid: of the process.

    Yields:
        What returns the most so far, MiB; pages that they share count for each.
    """
    most, ended = 0.0, threading.Event()

    def look() -> None:
        nonlocal most
        while not ended.wait(_LOOK_SECONDS):
            most = max(most, _memory_of_tree(pid))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: most
    finally:
        ended.set()
        thread.join()


def _memory_of_tree(root: int) -> float:
    parents, sizes = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in brackets, may hold spaces.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            pid = int(folder.name)
            parents[pid], sizes[pid] = int(fields[1]), int(fields[21])
    total, tree = 0, [root]
    while tree:
        pid = tree.pop()
        total += sizes.get(pid, 0)
        tree += [child for child, parent in parents.items() if parent == pid]
    return total * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _instructions() -> list[str]:
    """What decides how fast the CPU multiplies matrices; empty if it does not say."""
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.exists() else ""
    flags = "".join(re.findall(r"^flags\s*:(.*)$", text, re.M)[:1]).split()
    return [x for x in flags if re.match(r"fma|avx|amx", x)]


def _cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def publish(report: dict[str, Any], output: Path | None) -> None:
    """Prints measurements as JSON, and writes them to a file if one is given."""
    text = json.dumps(report, indent=1)
    print(text)
    if output:
        output.write_text(text + "\n")
