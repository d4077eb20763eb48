"""The accelerators whose limits are known: peak FLOP/s, memory, bandwidth."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator, dense bfloat16, as its maker states it.

    Attributes:
        name: as cloud consoles spell it.
        device_kind: pattern of what JAX calls it.
        peak_flops: bfloat16 FLOP/s of one JAX device.
        memory_bytes: of one JAX device.
        bandwidth: bytes/s between the device and its memory.
        libtpu_config: what libtpu must be told so that a device is a whole chip.
    """

    name: str
    device_kind: str
    peak_flops: float
    memory_bytes: int
    bandwidth: float
    libtpu_config: str = "default"


_GIB = 2**30
CHIPS = (
    Chip("v4", r"TPU v4", 275e12, 32 * _GIB, 1228e9, "megacore"),
    Chip("v5e", r"TPU v5 ?(e|lite)", 197e12, 16 * _GIB, 819e9),
    Chip("v5p", r"TPU v5p?", 459e12, 95 * _GIB, 2765e9),
    Chip("v6e", r"TPU v6 ?(e|lite)", 918e12, 32 * _GIB, 1640e9),
    Chip("h100", r"NVIDIA H100.*", 989e12, 80 * _GIB, 3350e9),
    Chip("a100-80gb", r"NVIDIA A100.*80GB.*", 312e12, 80 * _GIB, 2039e9),
    Chip("a100-40gb", r"NVIDIA A100.*", 312e12, 40 * _GIB, 1555e9),
)


def find_chip(name: str) -> Chip | None:
    """The chip of that name, or that JAX calls so; None where it is not known.

    Args:
        name: `v5e`, or a device's `device_kind`.
    """
    for chip in CHIPS:
        if name == chip.name or re.fullmatch(chip.device_kind, name):
            return chip
    return None


def tpu_names() -> list[str]:
    """The TPUs among them."""
    return [chip.name for chip in CHIPS if chip.device_kind.startswith("TPU")]


def find_tpu(name: str) -> Chip | None:
    """The TPU of that name; None where it is not known."""
    return find_chip(name) if name in tpu_names() else None
