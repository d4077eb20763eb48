"""Opens only regular files, so that nothing waits for a pipe or a device."""

import os
import stat
from os import PathLike
from typing import BinaryIO


def open_regular(path: str | PathLike[str]) -> BinaryIO:
    """Opens a regular file for reading; refuses pipes, devices, sockets and folders.

    Raises:
        OSError: missing, not readable, or not a regular file; `strerror` says which.
    """
    try:
        # Without O_NONBLOCK, opening a pipe blocks until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    # The name holds a null byte.
    except ValueError as error:
        raise OSError(0, str(error)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        is_folder = stat.S_ISDIR(mode)
        raise OSError(0, "Is a directory" if is_folder else "it is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_start(path: str | PathLike[str], size: int) -> bytes:
    """The first bytes of a file, fewer where it has fewer.

    Raises:
        OSError: as of `open_regular`, or they cannot be read.
    """
    with open_regular(path) as file:
        return content_of(file, size)


def content_of(file: BinaryIO, size: int) -> bytes:
    """The next bytes of a file that `open_regular` has opened.

    Raises:
        OSError: they cannot be read, or, as of a log of the kernel's, not at once.
    """
    content = file.read(size)
    # Nothing is waited for, so what has nothing to give yet gives None.
    if content is None:
        raise OSError(0, "it has no content of its own")
    return content
