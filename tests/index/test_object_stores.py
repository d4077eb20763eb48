"""What is said of an object store that cannot be used: one line, and what to do."""

import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_pipelines.console.errors import UserError
from vop_jax.index.store_errors import reading
from vop_jax.index.video_index import VideoIndex

ROOT = Path(__file__).parents[2]
# Answers as S3 gives them.
ANSWERS = {
    404: ("NoSuchBucket", "The specified bucket does not exist"),
    403: ("AccessDenied", "Access Denied"),
    401: ("InvalidAccessKeyId", "The key does not exist in our records"),
}


@pytest.fixture
def refusing():
    """The address of a server that answers everything alike, by its status."""
    servers = []

    def started(status):
        code, message = ANSWERS[status]
        content = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content.encode())

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield started
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def keys(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


def check(place, says):
    """Opening and creating both fail, soon, and with the same line."""
    began = time.monotonic()
    for use in (VideoIndex.open, VideoIndex.create):
        with pytest.raises(UserError, match=says) as caught, use(place):
            pass
        text = str(caught.value)
        assert text.startswith(f"{place}: ")
        assert "\n" not in text
        assert len(text) < 300
        # It is not the index that is wrong.
        assert "delete" not in text
    assert time.monotonic() - began < 100


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (404, "there is no such bucket; check its name$"),
        pytest.param(
            403,
            "denies access; allow the account to read and write the bucket$",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            401,
            "does not accept the credentials; set AWS_ACCESS_KEY_ID and AWS_SEC",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_a_server_refuses(keys, refusing, monkeypatch, status, says):
    monkeypatch.setenv("AWS_ENDPOINT", refusing(status))
    check("s3://bucket/videos.index", says)


@pytest.mark.slow
def test_a_server_that_is_not_there(keys, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{port}")
    check("s3://bucket/videos.index", "its server does not answer; check the network")


@pytest.mark.parametrize("key", ["none", "text", "key"])
def test_google_s_credentials(tmp_path, monkeypatch, key):
    path = tmp_path / "key.json"
    if key != "none":
        path.write_text('{"type": "service_account"}' if key == "key" else "no key")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    says = "no credentials that can be used; set GOOGLE_APPLICATION_CREDENTIALS to a s"
    check("gs://bucket/videos.index", says)


@pytest.mark.slow
def test_a_command_without_google_s_credentials(tmp_path):
    """Away from Google's machines; offline, where their names are not known."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    began = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vop_jax.search", "query", "x"),
            "--index=gs://bucket/videos.index",
        ],
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - began < 120
    assert done.returncode == 2
    assert done.stderr.startswith("error: gs://bucket/videos.index: ")
    assert done.stderr.count("\n") == 1


# As the client words them; of Google's, which needs a network.
TEXTS = {
    "there is no such bucket": "Status { status: 404, body: Some(<Code>NoSuchBucket) }",
    "there are no credentials": "TokenRequest { inner: Http(HttpError { kind: Connect",
    "denies access": "Status { status: 403, body: Some(<Error>) }",
    "region cannot be found out": "Failed to resolve region for bucket 'x'",
    "does not answer": "Connect, ConnectError(dns error, Custom { kind: Uncategorized",
}


@pytest.mark.parametrize("says", TEXTS)
def test_errors_by_their_words(says):
    with pytest.raises(UserError, match=f"gs://a/b: .*{says}"), reading("gs://a/b"):
        raise ValueError(TEXTS[says])
    # Of a local index the same words mean nothing.
    with pytest.raises(UserError, match="cannot be used"), reading(Path("/a/b")):
        raise ValueError(TEXTS[says])
