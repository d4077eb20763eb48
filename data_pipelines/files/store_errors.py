"""Errors of object stores as one line: what is wrong, and what to do."""

import contextlib
import re
from collections.abc import Iterator

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable

_LONGEST = 300
# How a client is given credentials, by the beginning of the place.
CREDENTIALS = {
    "gs://": "set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file, or "
    "run gcloud auth application-default login",
    "s3://": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}
_DENIES = "its server denies access"
# What the error of a store's client holds, and what that means. The first that fits
# counts: a token that cannot be had is an error of the network, too.
_MEANINGS = tuple(
    (re.compile(pattern, re.I), text)
    for pattern, text in (
        (
            r"curl ?(Code|error):? ?\[?[13]\b",
            "the bucket's name or the server's address is malformed; check both",
        ),
        (
            r"NO_SUCH_BUCKET|bucket does not exist|Bucket '.*' not found",
            "there is no such bucket; check its name",
        ),
        (
            r"INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH"
            r"|INVALID_CLIENT_TOKEN_ID|EXPIRED_TOKEN|UNAUTHENTICATED|HTTP status 401",
            "its server does not accept the credentials; {credentials}",
        ),
        (
            r"OAuth2 access token|credentials|service account",
            "there are no credentials that can be used; {credentials}",
        ),
        (
            r"ACCESS_DENIED|PERMISSION_DENIED|Access ?Denied|HTTP status 403",
            f"{_DENIES}; allow the account to read and write the bucket, or "
            "{credentials}",
        ),
        (
            r"NETWORK_CONNECTION|curl ?(Code|error)|resolve host|timed out|timeout"
            r"|UNAVAILABLE|SLOW_DOWN|HTTP status 5\d\d",
            "its server does not answer; check the network and the address",
        ),
    )
)


class Denied(UserError):
    """A store that does not allow what is asked of it."""


@contextlib.contextmanager
def using(place: str) -> Iterator[None]:
    """Turns an error of an object store into one line; a local path's stays.

    Args:
        place: what is read or written, for the message.

    Raises:
        FileNotFoundError: there is no such object, as on this machine.
        UserError: the store cannot be used.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        # Imported late: it takes a tenth of a second.
        from pyarrow import ArrowException

        # pyarrow raises `OSError`, subclasses of `ValueError`, and its own.
        known = isinstance(error, OSError | ValueError | ArrowException)
        # An error of this machine's own files says itself what it is.
        if not known or "://" not in place:
            raise
        line = _line(place, str(error))
        kind = Denied if _DENIES in line else UserError
        raise kind(line) from error


def _line(place: str, text: str) -> str:
    scheme = place.partition("://")[0] + "://"
    for pattern, meaning in _MEANINGS:
        if pattern.search(text):
            credentials = CREDENTIALS.get(scheme, "check them")
            return f"{place}: {meaning.format(credentials=credentials)}"
    reason = printable(" ".join(text.split())[:_LONGEST])
    return f"{place} cannot be used ({reason})"
