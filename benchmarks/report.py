"""What a benchmark ran on, and where its measurements are written."""

import json
import os
import platform
import re
from pathlib import Path
from typing import Any


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
