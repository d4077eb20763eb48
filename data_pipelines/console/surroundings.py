"""The environment a command starts in: a home folder, open streams, an encoding.

Containers run commands as users without an entry in the user database and without
`HOME`; libraries that keep files in the home folder then fail at import.
"""

import io
import os
import select
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any


def settle() -> None:
    """Supplies what is missing; call it before libraries are imported."""
    _open_streams()
    _find_home()


def is_gone(stream: Any) -> bool:
    """Whether the reader of a stream is gone, as with `| head`."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    # The stream is closed, or has no file descriptor.
    except (AttributeError, OSError, ValueError):
        return False


def usable_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def discard(stream: Any) -> None:
    """Drops everything written to a stream from now on, at interpreter exit too."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _open_streams() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next opened file gets this descriptor, and the output of C
            # libraries ends up in that file.
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the encoding lacks must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")


def _find_home() -> None:
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        home = _own_folder()
        os.environ["HOME"] = home
    elif not os.access(home, os.W_OK):
        # Matplotlib warns if it cannot write to its settings folder.
        os.environ.setdefault("MPLCONFIGDIR", _own_folder())
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        # The variable that `getpass.getuser` reads first.
        os.environ.setdefault("LOGNAME", f"uid{os.getuid()}")


def _own_folder() -> str:
    """A folder for temporary use that nobody else can write to.

    It must be private: compiled programs are cached there, read back and run.
    """
    folder = Path(tempfile.gettempdir()) / f"vop_jax-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
    except OSError:
        return tempfile.mkdtemp(prefix="vop_jax-")
    own = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()
    if own and not about.st_mode & 0o077:
        return str(folder)
    return tempfile.mkdtemp(prefix="vop_jax-")
