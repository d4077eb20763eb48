"""Compiled programs kept from one start of a command to the next."""

import hashlib
import os
import platform
import sys
from pathlib import Path

VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def keep_programs() -> None:
    """Keeps what takes longer than a second to compile in the user's cache folder.

    `JAX_COMPILATION_CACHE_DIR` names another folder; empty keeps nothing. Does nothing
    where the folder cannot be made. JAX need not have been imported.
    """
    if VARIABLE not in os.environ:
        folder = _default_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        os.environ[VARIABLE] = str(folder)
    if "jax" in sys.modules:
        import jax

        jax.config.update("jax_compilation_cache_dir", os.environ[VARIABLE] or None)


def _default_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "vop_jax" / "programs" / _processor()


def _processor() -> str:
    """Short for what this machine's processor can do.

    Code for one processor may not run on another, and a home may be shared by several.
    """
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else [platform.processor()]
    features = sorted(
        {x for x in lines if x.startswith(("flags", "Features", "model"))}
    )
    digest = hashlib.sha256("".join(features).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:8]}"
