"""Every test sees eight fake devices, on the CPU."""

import os

# Before JAX is imported anywhere. Unoptimised code compiles several times faster, and
# compiling is what most tests spend their time on.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)

from data_pipelines.terminal import quiet_libraries

quiet_libraries()
