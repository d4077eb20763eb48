"""What every command does before it imports JAX."""

from data_pipelines.terminal import quiet_libraries
from vop_jax.compile_cache import keep_programs
from vop_jax.freed_memory import is_cpu_alone, keep_freed_memory


def start_up() -> None:
    """Quiets the libraries, keeps compiled programs and on a CPU freed memory."""
    quiet_libraries()
    keep_programs()
    if is_cpu_alone():
        keep_freed_memory()
