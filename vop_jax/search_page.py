"""Pages of what a search found, as files and from a small server."""

import base64
import functools
import ipaddress
import os
import sys
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.frames import encode_jpeg, resize_and_crop
from vop_jax.pages import render
from vop_jax.video_folder import Model, Unreadable, read_frames
from vop_jax.video_index import Found, VideoIndex

# Pixels of a filmstrip's frame; shown smaller, and sharp on fine screens too.
_FRAME_SIZE = 160
# The page needs its own style and pictures, and nothing from elsewhere.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def shown(text: str) -> str:
    """Text of any origin as it can be printed: one line, nothing that steers."""
    return "".join(
        x if x.isprintable() else x.encode("unicode_escape").decode() for x in text
    )


def search_page(
    index: VideoIndex,
    model: Model,
    queries: Sequence[str] = (),
    found: Found | None = None,
    *,
    form: bool = False,
    problem: str = "",
) -> str:
    """A page of what was found, as filmstrips that are decoded from the videos.

    Args:
        index: what was searched.
        model: reads the frames.
        queries: what was looked for.
        found: what was found, if there was a search.
        form: whether there is a field to search again.
        problem: what went wrong.
    """
    hits = found.hits if found else []
    paths = list(dict.fromkeys(hit.path for each in hits for hit in each))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = pool.map(functools.partial(_strip, index, model), paths)
        strips = dict(zip(paths, read, strict=True))
    answers = [
        {
            "query": shown(query),
            "hits": [
                {**hit._asdict(), **strips[hit.path], "path": shown(hit.path)}
                for hit in each
            ],
        }
        for query, each in zip(queries, hits, strict=False)
    ]
    return render(
        "search.html",
        folder=shown(str(index.videos)),
        queries=[shown(query) for query in queries],
        found=found,
        answers=answers,
        form=form,
        problem=shown(problem),
    )


def _strip(index: VideoIndex, model: Model, path: str) -> dict[str, Any]:
    """A video's frames as data URIs, or why there are none."""
    frames = read_frames(model, index.videos, path)
    if isinstance(frames, Unreadable):
        if frames.status == "missing":
            problem = "the video has vanished since it was indexed"
        else:
            problem = f"the video cannot be read any more ({frames.status})"
        return {"frames": [], "problem": problem}
    side = min(_FRAME_SIZE, frames.shape[1])
    pictures = (encode_jpeg(resize_and_crop(frame, side)) for frame in frames)
    return {
        "frames": [
            "data:image/jpeg;base64," + base64.b64encode(picture).decode()
            for picture in pictures
        ],
        "problem": "",
    }


class SearchServer(ThreadingHTTPServer):
    """Answers queries with pages.

    A request gives a query and nothing else: no path in it is ever opened.

    Args:
        address: host and port; port 0 takes a free one.
        index: what is searched.
        model: what embeds the queries.
        top: videos of a query.

    Raises:
        UserError: it cannot listen there.
    """

    def __init__(
        self, address: tuple[str, int], index: VideoIndex, model: Model, top: int
    ):
        self.index, self.model, self.top = index, model, top
        host, port = address
        try:
            super().__init__(address, _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"cannot listen at {host}:{port} ({reason}); give another --host or "
                "--port"
            ) from None

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        return f"http://{host}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints what went wrong, unless the browser has only gone away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: SearchServer
    # Seconds for a browser that opens a connection and says nothing.
    timeout = 30

    def do_GET(self) -> None:
        path, _, given = self.path.partition("?")
        if not self._is_meant():
            self._send(HTTPStatus.FORBIDDEN, "this server answers to its own name only")
        elif path != "/":
            self._send(HTTPStatus.NOT_FOUND, "there is only one page, /")
        else:
            query = urllib.parse.parse_qs(given).get("q", [""])[0]
            self._answer(query)

    def _is_meant(self) -> bool:
        """Whether the page was asked for by the name of this machine.

        Another site's name can be made to lead to this machine, and that site could
        then read the videos; a server for this machine alone answers to no such name.
        """
        host = str(self.server.server_address[0])
        if not ipaddress.ip_address(host).is_loopback:
            return True
        name = self.headers.get("Host", host).rsplit(":", 1)[0].lower()
        return name in (host, "localhost")

    def _answer(self, query: str) -> None:
        server, found, problem = self.server, None, ""
        status = HTTPStatus.OK
        try:
            if query.strip():
                found = server.index.search(server.model, [query], server.top)
        except UserError as error:
            status, problem = HTTPStatus.SERVICE_UNAVAILABLE, str(error)
        page = search_page(
            server.index, server.model, [query], found, form=True, problem=problem
        )
        self._send(status, page, "text/html")

    def _send(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of single requests."""
