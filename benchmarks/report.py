"""What a benchmark ran on, and where its figures go."""

import json
import os
import platform
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """The processor's own name and the number of cores."""
    return {"cpu": _cpu_name(), "cores": os.cpu_count()}


def _cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def publish(report: dict[str, Any], output: Path | None) -> None:
    """Prints figures as JSON, and writes them where a file is given."""
    text = json.dumps(report, indent=1)
    print(text)
    if output:
        output.write_text(text + "\n")
