"""The statuses of video files: what is wrong with one, or worth knowing."""

import errno
import os
import stat
from pathlib import Path

from data_pipelines.console.printable import printable

# Properties of a file's content.
_OF_THE_CONTENT = (
    "unreadable",
    "truncated",
    "corrupt",
    "no_video",
    "too_large",
)
# Temporary conditions, which are never stored as a property of a file.
OF_THE_MOMENT = ("missing", "denied", "io_error", "timeout")
# Harmless; the frames are there.
NOTES = ("rotated", "stretched", "resized", "hdr", "short")
STATUSES = (*_OF_THE_CONTENT, *OF_THE_MOMENT, *NOTES)

# System errors that mean that there is no file at a path.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_DENIED = (errno.EACCES, errno.EPERM)
# Longest path in a message, and longest message, characters.
_LONGEST, _MESSAGE = 300, 400


class VideoError(Exception):
    """A file whose frames cannot be decoded or trusted.

    Attributes:
        status: one of `STATUSES`.
    """

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


def error_of_system(path: Path, error: OSError) -> VideoError:
    """Translates an operating system error about a file."""
    reason = error.strerror or type(error).__name__
    # A path that is too long for the system is too long for a line as well.
    name = str(path) if len(str(path)) <= _LONGEST else f"{str(path)[:_LONGEST]}..."
    if error.errno in _NOWHERE:
        return VideoError("missing", f"{name} does not exist ({reason})")
    if error.errno in _DENIED:
        return VideoError("denied", f"{name} may not be read ({reason})")
    if error.errno == errno.ENOMEM:
        return VideoError("too_large", f"{name} takes too much memory to decode")
    return VideoError("io_error", f"{name} cannot be read at the moment ({reason})")


def check_file(path: Path, max_bytes: int | None = None) -> None:
    """Checks that a path leads to a regular file that may be read.

    Opening anything else, such as a pipe, could block forever.

    Args:
        path: the file.
        max_bytes: a larger file is refused.

    Raises:
        VideoError: it does not, or the file is too large.
    """
    try:
        about = os.stat(path)
        if stat.S_ISDIR(about.st_mode):
            raise VideoError("unreadable", f"{path} is a folder, not a video file")
        if not stat.S_ISREG(about.st_mode):
            raise VideoError("unreadable", f"{path} is not a regular file")
        if max_bytes is not None and about.st_size > max_bytes:
            raise VideoError(
                "too_large",
                f"{path} has {about.st_size:,} bytes, more than {max_bytes:,}",
            )
        # Non-blocking, in case a pipe has replaced the file meanwhile.
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        raise error_of_system(path, error) from None
    # No file can have such a name.
    except ValueError:
        raise VideoError(
            "missing", f"{str(path)!r} cannot be the name of a file"
        ) from None


def check_readable(path: Path) -> None:
    """Checks that the system can read a file to its end.

    FFmpeg takes a failing disk or network share for the end of the file, which would
    then count as a property of the file.

    Raises:
        VideoError: it cannot.
    """
    try:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    except OSError as error:
        raise error_of_system(path, error) from None


def described(path: Path, error: BaseException) -> tuple[str, str]:
    """The status of a file that cannot be decoded, and one line that says why.

    Args:
        path: the file.
        error: any error; a damaged file can make a decoder fail in any way.
    """
    cause: BaseException | None = error
    while cause is not None:
        # FFmpeg's own memory error is one too, and may have been re-raised as another.
        if isinstance(cause, MemoryError):
            return "too_large", shortened(f"{path} takes too much memory to decode")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OSError):
        error = error_of_system(path, error)
    if isinstance(error, VideoError):
        return error.status, shortened(str(error))
    reason = f"{type(error).__name__}: {error}"
    return "corrupt", shortened(f"{path} cannot be decoded ({reason})")


def shortened(message: str) -> str:
    """A message as one printable line of bounded length."""
    message = printable(message)
    # Cut in the middle: the file is named first and the cause last.
    if len(message) > _MESSAGE:
        message = f"{message[: _MESSAGE // 2]} ... {message[-_MESSAGE // 2 :]}"
    return message
