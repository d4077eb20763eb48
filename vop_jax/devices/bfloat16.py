"""Which devices multiply bfloat16 in hardware."""

import re
from pathlib import Path
from typing import Any

# The instructions of x86 that do; a CPU without them converts to float32 and back.
_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
_CPU_FILE = Path("/proc/cpuinfo")
# NVIDIA's GPUs do from compute capability 8.0 on.
_OLD_GPU = r"[0-7]\.\d+"


def cpu_instructions(file: Path = _CPU_FILE) -> tuple[str, ...]:
    """The bfloat16 instructions of this machine's CPU; none if the file is missing."""
    text = file.read_text() if file.exists() else ""
    # All cores have the same.
    flags = re.search(r"^flags\s*:(.*)$", text, re.M)
    known = flags[1].split() if flags else ()
    return tuple(name for name in _INSTRUCTIONS if name in known)


def multiplies_bfloat16(device: Any) -> bool:
    """Whether a device, a `jax.Device`, multiplies bfloat16 faster than float32."""
    if device.platform == "cpu":
        return bool(cpu_instructions())
    capability = str(getattr(device, "compute_capability", ""))
    return not re.fullmatch(_OLD_GPU, capability)
