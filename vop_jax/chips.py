"""The peak FLOP/s of the accelerators that are known."""

import re

from vop_jax import tpu_chips

# What JAX calls a GPU -> its dense bfloat16 peak, from NVIDIA's data sheets (SXM).
_GPUS = {r"NVIDIA H100.*": 989e12, r"NVIDIA A100.*": 312e12}


def peak_flops(kind: str) -> float | None:
    """The bfloat16 peak of a device by JAX's name for it; None where it is unknown."""
    found = tpu_chips.peak_flops(kind)
    if found is not None:
        return found
    return next((x for name, x in _GPUS.items() if re.fullmatch(name, kind)), None)
