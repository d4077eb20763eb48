"""Every test sees eight fake devices, on the CPU, and no Triton."""

import os
import sys

# Before JAX is imported anywhere. Unoptimised code compiles several times faster, and
# compiling is what most tests spend their time on.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)

from data_pipelines.console.terminal import quiet_libraries

quiet_libraries()
# PyTorch imports Triton where it is installed; both its library and XLA's hold LLVM,
# and the process crashes.
sys.modules["triton"] = None  # pyright: ignore[reportArgumentType]
