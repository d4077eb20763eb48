"""Errors of the store of an index as one line: what is wrong, and what to do."""

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable
from data_pipelines.files.store_errors import CREDENTIALS
from vop_jax.index.panics import no_reports
from vop_jax.runtime.files import is_full

_LONGEST = 300
# Of Python: the place is below a file, or where no folder can be made.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
# Where LanceDB's errors say they come from in its own code.
_SOURCE = re.compile(r",? ?/\S+\.rs:\d+(:\d+)?")
# What the error of an object store's client holds, and what that means. The first that
# fits counts: a token that cannot be had is an error of the network, too.
_REMOTE = tuple(
    (re.compile(pattern, re.I), text)
    for pattern, text in (
        (
            r"NoSuchBucket|bucket does not exist",
            "there is no such bucket; check its name",
        ),
        (
            r"resolve region",
            "the bucket's region cannot be found out; check its name, or set "
            "AWS_REGION",
        ),
        (
            r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken"
            r"|AuthenticationRequired|status: 401",
            "its server does not accept the credentials; {credentials}",
        ),
        (
            r"TokenRequest|credentials|service account|pem file",
            "there are no credentials that can be used; {credentials}",
        ),
        (
            r"AccessDenied|status: 403",
            "its server denies access; allow the account to read and write the bucket",
        ),
        (
            r"kind: (Connect|Timeout)|dns error|timed out",
            "its server does not answer; check the network and the address",
        ),
    )
)


@contextlib.contextmanager
def reading(place: Path | str) -> Iterator[None]:
    """Turns an error of a store into one line.

    Args:
        place: of the store.
    """
    try:
        with no_reports():
            yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # LanceDB raises `RuntimeError`, `OSError` or `ValueError`, and a Rust panic, which
    # is no `Exception`.
    except BaseException as error:
        if not isinstance(error, Exception) and "Panic" not in type(error).__name__:
            raise
        raise UserError(_line(place, error)) from error


def _line(place: Path | str, error: BaseException) -> str:
    if is_full(error):
        return f"{place} cannot grow, the disk is full; what is done is kept"
    text = str(error)
    if isinstance(error, OSError) and error.errno in _NOWHERE:
        reason = error.strerror or text
        return f"{place} cannot become a folder ({reason}); use another path"
    if not isinstance(place, Path):
        scheme = place.partition("://")[0] + "://"
        for pattern, meaning in _REMOTE:
            if pattern.search(text):
                credentials = CREDENTIALS.get(scheme, "check them")
                return f"{place}: {meaning.format(credentials=credentials)}"
    reason = " ".join(_SOURCE.sub("", text).split())[:_LONGEST]
    reason = printable(reason) or type(error).__name__
    if isinstance(error, PermissionError) or "ermission denied" in reason:
        return f"{place} cannot be written or read (permission denied)"
    return (
        f"{place} cannot be used ({reason}); if it is damaged, delete it and index "
        "again"
    )
