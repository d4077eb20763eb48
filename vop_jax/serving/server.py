"""Serves the search page over HTTP, until it is told to end.

with SearchServer(("127.0.0.1", 8000), index, model, as_json=as_json) as server:
print(server.url)
server.serve()
"""

import contextlib
import logging
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from data_pipelines.console.errors import UserError
from data_pipelines.console.interrupts import Interrupts
from vop_jax.index.video_index import VideoIndex
from vop_jax.serving.connections import ENDING, BoundedConnection, allow_descriptors
from vop_jax.serving.gate import HEAD_BYTES, PARAMETER, Gate, Names, is_loopback
from vop_jax.serving.previews import Previews
from vop_jax.serving.routes import make_app
from vop_jax.serving.service import Service, TextModel

# Seconds between two requests of a connection, and until requests under way are ended
# with the server; Ctrl-C ends the program after 10.
_KEPT_SECONDS, _LAST_SECONDS = 20, 4


class SearchServer:
    """A server that listens from the start, and answers while `serve` runs.

    Args:
        address: host and port; port 0 picks a free one.
        index: the index to search.
        model: embeds the queries.
        as_json: the results as `search query --json` prints them.
        top: hits of a query.
        previews: by default kept in the user's cache folder.
        need_token: whether requests need a token; by default if other machines can
            reach the address.

    Raises:
        UserError: it cannot listen at this address.
    """

    def __init__(
        self,
        address: tuple[str, int],
        index: VideoIndex,
        model: TextModel,
        as_json: Callable[[VideoIndex, Any], dict[str, Any]],
        top: int = 10,
        previews: Previews | None = None,
        need_token: bool | None = None,
    ):
        self._socket = _listen(*address)
        self._until_exit = contextlib.ExitStack()
        self._until_exit.callback(self._socket.close)
        self.host, self.port = self._socket.getsockname()[:2]
        self.is_open = not is_loopback(self.host)
        if need_token is None:
            need_token = self.is_open
        self.token = secrets.token_urlsafe(24) if need_token else ""
        try:
            previews = Previews() if previews is None else previews
            self.service = Service(index, model, top, as_json, previews)
        except BaseException:
            self._until_exit.close()
            raise
        self._until_exit.callback(self.service.close)
        # Rebinding gains nothing where a token is needed: its cookie is bound to the
        # name under which the page was opened.
        names = None if need_token and self.is_open else Names(self.host, address[0])
        app = Gate(
            make_app(self.service), names=names, token=self.token, port=self.port
        )
        config = uvicorn.Config(
            app,
            # uvloop and httptools, which may be installed, have limits of other kinds.
            loop="asyncio",
            http=BoundedConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEPT_SECONDS,
            timeout_graceful_shutdown=_LAST_SECONDS,
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        # Errors of the program alone; what browsers do wrong is a warning.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._server = _Server(config)

    @property
    def url(self) -> str:
        """The address of the page, with the token if one is needed."""
        host = self.host
        # Not an address that can be opened; other machines know this one by its name.
        if host in ("0.0.0.0", "::"):
            host = socket.gethostname()
        shown = f"[{host}]" if ":" in host else host
        token = f"?{PARAMETER}={self.token}" if self.token else ""
        return f"http://{shown}:{self.port}/{token}"

    def serve(self) -> None:
        """Answers requests until `stop`, SIGTERM or Ctrl-C."""
        allow_descriptors()
        self.service.begin()
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Ends `serve`; from any thread or signal handler."""
        self._server.should_exit = True

    def _watch_signals(self) -> None:
        """Lets SIGTERM and Ctrl-C end `serve`, also one that comes before it."""
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.signal(signal.SIGTERM, lambda *_: self.stop())
        self._until_exit.callback(signal.signal, signal.SIGTERM, before)
        self._until_exit.enter_context(Interrupts(first=self.stop))

    def __enter__(self) -> "SearchServer":
        with self._until_exit:
            self._watch_signals()
            self._until_exit = self._until_exit.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._until_exit.close()


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends connections, also those that are accepted meanwhile."""
        setattr(self.server_state, ENDING, True)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to `SearchServer`.

        uvicorn would raise them again at its end, and the exit status would be that of
        a program that a signal has ended.
        """
        yield


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: it cannot.
    """
    shown = f"[{host}]" if ":" in host else host
    try:
        if not 0 <= port <= 65535:
            raise OSError(None, "a port is from 0 to 65535")
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, place = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(1024)
        except BaseException:
            listening.close()
            raise
        return listening
    # An international name that cannot be encoded.
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen at {shown}:{port} ({reason}); use another --host or --port"
        ) from None
