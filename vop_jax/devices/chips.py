"""Published figures of accelerators: a chip of each TPU generation, peaks of GPUs."""

import re
from typing import NamedTuple


class Chip(NamedTuple):
    """One chip.

    Attributes:
        memory: bytes of HBM.
        flops: peak bfloat16 FLOP/s.
        bandwidth: bytes/s of HBM.
        kinds: JAX's `device_kind` names.
        config: libtpu's chip configuration under which a device is an entire chip.
    """

    memory: int
    flops: float
    bandwidth: float
    kinds: tuple[str, ...]
    config: str = "default"


# https://cloud.google.com/tpu/docs/system-architecture-tpu-vm, a page per generation.
CHIPS = {
    "v4": Chip(32 * 2**30, 275e12, 1.2e12, ("TPU v4",), "megacore"),
    "v5e": Chip(16 * 2**30, 197e12, 0.82e12, ("TPU v5 lite", "TPU v5e")),
    "v5p": Chip(95 * 2**30, 459e12, 2.765e12, ("TPU v5", "TPU v5p")),
    "v6e": Chip(32 * 2**30, 918e12, 1.64e12, ("TPU v6 lite", "TPU v6e")),
}
# JAX's device kind of a GPU -> dense bfloat16 peak, from NVIDIA's data sheets (SXM).
_GPUS = {r"NVIDIA H100.*": 989e12, r"NVIDIA A100.*": 312e12}


def peak_flops(kind: str) -> float | None:
    """The peak bfloat16 FLOP/s of a device by JAX's `device_kind`; None if unknown."""
    for chip in CHIPS.values():
        if kind in chip.kinds:
            return chip.flops
    return next((x for name, x in _GPUS.items() if re.fullmatch(name, kind)), None)
