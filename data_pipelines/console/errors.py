"""Errors that a user can fix, and how every command reports them."""

import errno
import functools
import os
import re
import shutil
import sys
from collections.abc import Callable

from data_pipelines.console.interrupts import (
    ENDINGS,
    Ending,
    Interrupts,
    ending_of,
    leave_at_exit,
)
from data_pipelines.console.printable import printable
from data_pipelines.console.surroundings import discard, is_gone, settle

# The exit status after a `UserError`.
MISTAKE = 2
# What a shell reports for a program that SIGPIPE ended (128 + 13).
_PIPE_STATUS = 141
# Errors of disks and limits of this machine, which name no file.
_MACHINE = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
        *(errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    )
)
# Longest word (such as a path) and longest line of a message, characters.
_LONGEST_WORD, _LONGEST_LINE = 400, 4_000


class UserError(Exception):
    """A mistake a user can fix.

    The message is one line: what is wrong, where, and how to fix it. Every command
    prints it without a traceback and exits with status 2.
    """


def command(main: Callable[..., int | None]) -> Callable[..., None]:
    """Wraps a command's main function.

    A `UserError` becomes one line and status 2, and so does an error of the operating
    system about a named file, a full disk or exhausted memory. Ctrl-C becomes one line
    and status 130, SIGTERM one and 143, even if a library turned it into another error.
    The command works without a home folder and with closed streams. If the reader of
    its output is gone, as with `| head`, it ends silently, as any program does.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        settle()
        try:
            sys.exit(_status(main, args, kwargs))
        except BrokenPipeError:
            gone = [x for x in (sys.stdout, sys.stderr) if is_gone(x)]
            if not gone:
                raise
            for stream in gone:
                discard(stream)
            sys.exit(_PIPE_STATUS)

    return wrapped


def _status(main: Callable[..., int | None], args: tuple, kwargs: dict) -> int | str:
    """Runs a command, flushes its output and returns its exit status."""
    with Interrupts() as interrupts:
        try:
            status = main(*args, **kwargs) or 0
        except SystemExit as end:
            status = end.code or 0
        except KeyboardInterrupt as error:
            return _ended(ending_of(error), interrupts.noticed)
        except Exception as error:
            if interrupts.noticed:
                return _ended(ENDINGS[interrupts.noticed], interrupts.noticed)
            line = _line_of(error)
            if line is None:
                raise
            print(f"error: {on_one_line(line)}", file=sys.stderr)
            return MISTAKE
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard(sys.stdout)
        print(f"error: the output cannot be written ({error})", file=sys.stderr)
        return MISTAKE
    return status


def _line_of(error: Exception) -> str | None:
    """What to say of an error that a user can fix; None of a bug.

    Readers and writers name what they expect themselves. This is for what they leave:
    any call that takes a path may meet a name that is too long, a folder that may not
    be searched, or a disk that fails.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"this machine has not enough memory ({error or 'none is left'})"
    if not isinstance(error, OSError):
        return None
    # Of several copied files; each reason names its file.
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])
    reason = error.strerror or str(error)
    if isinstance(error.filename, str | bytes | os.PathLike):
        return f"{os.fsdecode(error.filename)} cannot be used ({reason})"
    return f"a file cannot be used ({reason})" if error.errno in _MACHINE else None


def on_one_line(text: str) -> str:
    """A message of unknown content on one line of bounded length.

    File names may hold line ends and the codes that control a terminal.
    """
    text = re.sub(r"\s*[\r\n]\s*", " ", text[:_LONGEST_LINE])
    text = printable(text)
    half = _LONGEST_WORD // 2
    return re.sub(
        rf"\S{{{_LONGEST_WORD},}}", lambda x: f"{x[0][:half]}...{x[0][-half:]}", text
    )


def _ended(how: Ending, number: int) -> int:
    """Says how a command ends; `number` is the signal that came, if one did."""
    if number:
        leave_at_exit(how)
    print(how.word, file=sys.stderr, flush=True)
    return how.status
