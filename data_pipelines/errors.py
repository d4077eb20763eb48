"""Errors that a user can mend."""

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake a user can mend.

    The message is one line: what is wrong, where, and how to mend it. Every command
    prints it without a traceback and exits with status 2.
    """


def command(main: Callable[..., int | None]) -> Callable[..., None]:
    """Wraps a command's main function: a `UserError` becomes one line and status 2."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            status = main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        sys.exit(status or 0)

    return wrapped
