"""Who may ask: pages of the server itself, under its own name, and with its token."""

import hmac
import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Iterable
from typing import Any

# Content security policy: nothing from elsewhere, and no script but the server's file.
POLICY = (
    "default-src 'none'; img-src 'self' data:; media-src 'self'; connect-src 'self'; "
    "script-src 'self'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_CLOSE = (b"connection", b"close")
# Seconds that a browser remembers the token.
_REMEMBERED = 7 * 24 * 3600
PARAMETER = "token"
# A name or an IPv4 address, or what is between brackets; and a port.
_HOST = re.compile(r"(?:([A-Za-z0-9._-]+)|\[([^\[\]]*)\])(?::[0-9]{0,5})?")
# Most bytes of a request's head.
HEAD_BYTES = 32 << 10


class Gate:
    """ASGI middleware that refuses requests, and adds headers to every answer.

    Three guards, each against another way in:

    - A `Host` header must name this server. Against DNS rebinding: another site's name
      can be made to resolve to this machine, and that site could then read the videos.
    - A browser must not ask on behalf of another site (`Sec-Fetch-Site`), except to
      open the page.
    - With a token, a request must carry it: in the address once, then in a cookie, or
      as `Authorization: Bearer`.

    Args:
        app: what is guarded.
        names: hosts that a `Host` header may name; None lets all through.
        token: empty if none is needed.
        port: part of the cookie's name, as browsers send cookies to every port.
    """

    def __init__(
        self, app: Any, *, names: "Names | None", token: str = "", port: int = 0
    ):
        self._app, self._names = app, names
        self._token, self._cookie = token, f"vop_jax_{port}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused:
            status, reason, more = refused
            await _answer(send_guarded, status, reason, more)
        else:
            await self._app(scope, receive, send_guarded)

    def _refusal(
        self, scope: Any, headers: dict[str, bytes]
    ) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        """Status, reason and headers of the answer to a request that is not meant."""
        # What comes in one piece is read before its length is looked at.
        if _length(scope) > HEAD_BYTES:
            return 431, "the head of the request is too long", [_CLOSE]
        # Nothing here reads a body, and one that never ends would hold the connection.
        if headers.get("content-length", b"0").strip(b"0") or (
            "transfer-encoding" in headers
        ):
            if scope["method"] not in ("GET", "HEAD"):
                return 405, "ask with GET", [(b"allow", b"GET, HEAD"), _CLOSE]
            return 413, "a request has no body here", [_CLOSE]
        host = headers.get("host", b"").decode("latin-1")
        if self._names is not None and host and not self._names.hold(host):
            return 403, "this server answers to its own name only", []
        if not _is_own(scope, headers):
            return 403, "this server answers to its own pages only", []
        if not self._token:
            return None
        # A path in it may hold bytes that are not UTF-8.
        text = scope["query_string"].decode("latin-1")
        query = urllib.parse.parse_qsl(text, errors="surrogateescape")
        given = dict(query).get(PARAMETER)
        if given is not None and self._matches(given.encode("latin-1", "replace")):
            return 303, "", self._welcome(scope, query)
        bearer = headers.get("authorization", b"").removeprefix(b"Bearer ")
        if self._matches(bearer) or self._matches(self._cookie_of(headers)):
            return None
        reason = "open the address with the token that the server has printed"
        return 403, reason, []

    def _matches(self, given: bytes) -> bool:
        # In constant time, so that the answer's delay tells nothing of the token.
        return hmac.compare_digest(given, self._token.encode())

    def _cookie_of(self, headers: dict[str, bytes]) -> bytes:
        for part in headers.get("cookie", b"").split(b";"):
            name, _, value = part.strip().partition(b"=")
            if name == self._cookie.encode():
                return value
        return b""

    def _welcome(
        self, scope: Any, query: Iterable[tuple[str, str]]
    ) -> list[tuple[bytes, bytes]]:
        """Remembers the token, and leads to the same address without it."""
        others = [x for x in query if x[0] != PARAMETER]
        left = urllib.parse.urlencode(others, errors="surrogateescape")
        # Two slashes at the beginning would name another server.
        path = "/" + scope["raw_path"].decode("latin-1").lstrip("/\\")
        cookie = (
            f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax; "
            f"Max-Age={_REMEMBERED}"
        )
        return [
            (b"location", (path + ("?" + left if left else "")).encode("latin-1")),
            (b"set-cookie", cookie.encode()),
            (b"cache-control", b"no-store"),
        ]


def _length(scope: Any) -> int:
    """Bytes of a request's head."""
    line = (scope["method"].encode(), scope["raw_path"], scope["query_string"])
    fields = (part for header in scope["headers"] for part in header)
    # Between these are spaces and line ends.
    return sum(len(part) + 2 for part in (*line, *fields))


def _is_own(scope: Any, headers: dict[str, bytes]) -> bool:
    """Whether a browser asks on behalf of a page of this server, or of nobody."""
    # Only browsers send it, and no page can change it.
    if headers.get("sec-fetch-site", b"none") in (b"none", b"same-origin"):
        return True
    shown = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return scope["path"] == "/" and shown == (b"navigate", b"document")


async def _answer(
    send: Any, status: int, text: str, headers: list[tuple[bytes, bytes]]
) -> None:
    content = text.encode()
    own = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(content)).encode()),
    ]
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": content})


class Names:
    """The hosts that a `Host` header may name.

    Args:
        address: that the server listens at.
        given: the same as the user wrote it.
    """

    def __init__(self, address: str, given: str):
        self._names = {"localhost", address.lower(), given.lower()}
        self._is_loopback = is_loopback(address)
        self._machine = socket.gethostname().lower()

    def hold(self, header: str) -> bool:
        """Whether a header names this server."""
        host = _host_of(header)
        if host is None:
            return False
        if host in self._names:
            return True
        if self._is_loopback:
            return False
        # Rebinding needs a name in the attacker's zone, so an address is safe.
        return is_address(host) or f"{host}.".startswith(f"{self._machine}.")


def _host_of(header: str) -> str | None:
    """The host of a `Host` header, without port and brackets; None if it is malformed.

    What is between brackets is an IPv6 address, and nothing but a port is behind.
    """
    found = _HOST.fullmatch(header)
    if found is None:
        return None
    name, inner = found.groups()
    if inner is not None and not (":" in inner and is_address(inner)):
        return None
    return (name if inner is None else inner).lower()


def is_address(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    return is_address(address) and ipaddress.ip_address(address).is_loopback
