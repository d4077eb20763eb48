"""Dtype, layer loop, rematerialization and attention kernel of both towers."""

import dataclasses
from typing import Any

from vop_jax.devices.bfloat16 import multiplies_bfloat16
from vop_jax.model.clip.precision import Precision
from vop_jax.model.clip.sizes import ClipSize

DTYPES = ("auto", "float32", "bfloat16")
# The policies of `vop_jax.model.clip.remat`.
REMATS = ("none", "lean", "full")
ATTENTIONS = ("auto", "xla", "splash")

# Platform -> the dtype that a bfloat16 product results in, if it is not bfloat16; see
# `vop_jax.model.clip.products`.
_RESULTS = {"cpu": "float32"}
# Platform -> the least width of both towers for which `auto` takes bfloat16. A small
# model gains little on a CPU (the demo's, 64 wide, 8% a step), and its numbers should
# not depend on which CPU it was trained on; ViT-B/32 gains 1.7 times.
_LEAST_WIDTH = {"cpu": 512}


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    """How the towers compute: speed, memory and rounding, never the function itself.

    Attributes:
        dtype: `float32`, `bfloat16`, or `auto`, which is `bfloat16` where the device
            multiplies it in hardware (on a CPU only for towers at least 512 wide) and
            `float32` elsewhere; LayerNorm and softmax are float32 in both.
        scan: whether the layers run as one `lax.scan` (small program, quick to
            compile) or unrolled (larger program, specialised by the compiler).
        remat: which activations a layer saves for the backward pass, see
            `vop_jax.model.clip.remat`.
        attention: `xla`, `splash` (a TPU kernel, used for long sequences), or `auto`,
            which is `splash` on a TPU and `xla` elsewhere.
    """

    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    attention: str = "auto"

    @property
    def precision(self) -> Precision:
        """The dtypes of products and of what is between them."""
        if self.dtype == "auto":
            raise ValueError("compute.dtype is auto; `on` resolves it")
        return Precision(self.dtype, self.dtype)

    def with_dtype(self, device: Any, size: ClipSize) -> "ComputeConfig":
        """The same configuration with a `dtype` of `auto` resolved.

        Args:
            device: a `jax.Device`.
            size: of the model.
        """
        if self.dtype != "auto":
            return self
        width = min(size.vision.width, size.text.width)
        pays = multiplies_bfloat16(device)
        pays = pays and width >= _LEAST_WIDTH.get(device.platform, 0)
        return dataclasses.replace(self, dtype="bfloat16" if pays else "float32")

    def on(self, device: Any, size: ClipSize) -> "ComputeConfig":
        """The same configuration as a device computes it; arguments as `with_dtype`."""
        platform = device.platform
        config = self.with_dtype(device, size)
        fields = {x.name: getattr(config, x.name) for x in dataclasses.fields(config)}
        if self.attention == "auto":
            fields["attention"] = "splash" if platform == "tpu" else "xla"
        if config.dtype == "bfloat16":
            fields["results"] = _RESULTS.get(platform, config.dtype)
        return PlacedCompute(**fields)


@dataclasses.dataclass(frozen=True)
class PlacedCompute(ComputeConfig):
    """A configuration as one kind of device computes it.

    Attributes:
        results: the dtype of what is computed between matrix products; empty means
            `dtype`.
    """

    results: str = ""

    @property
    def precision(self) -> Precision:
        """The dtypes of products and of what is between them."""
        return Precision(self.dtype, self.results or self.dtype)
