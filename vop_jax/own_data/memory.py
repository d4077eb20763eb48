"""Free memory of the device that trains."""

import re
from pathlib import Path
from typing import Any

_MEMINFO = Path("/proc/meminfo")


def free_memory(device: Any, meminfo: Path = _MEMINFO) -> int:
    """Bytes that a device has left; 0 if it does not tell.

    Args:
        device: a `jax.Device`; of a CPU it is the machine's available memory.
        meminfo: where the system tells that.
    """
    if device.platform == "cpu":
        text = meminfo.read_text() if meminfo.exists() else ""
        found = re.search(r"^MemAvailable: *(\d+) kB$", text, re.M)
        return int(found[1]) << 10 if found else 0
    stats = device.memory_stats() or {}
    return max(0, stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0))
