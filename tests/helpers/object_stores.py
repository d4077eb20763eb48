"""Object stores on loopback: moto's S3, and as much of Google's as a client needs."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
import urllib.request

import pytest
from tiers import slow

_MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}


class S3:
    """moto's S3 server, in a process of its own, with the bucket `bucket`."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _MOTO],
            env=os.environ | KEYS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        port = self._process.stdout.readline().strip()
        self.endpoint = f"http://127.0.0.1:{port}"
        made = urllib.request.Request(f"{self.endpoint}/bucket", method="PUT")
        urllib.request.urlopen(made).close()
        self.environment = KEYS | {"AWS_ENDPOINT_URL": self.endpoint}
        self.place = "s3://bucket"

    def close(self):
        self._process.kill()
        self._process.communicate()


class Google:
    """Google's JSON interface of one bucket, whose objects are in memory.

    Only what pyarrow's client sends: it lists, describes, reads, writes in an upload
    of several requests, and deletes.

    Attributes:
        objects: content by name.
        refused: methods that are answered with 403, as of an account that may only
            read.
    """

    def __init__(self):
        self.objects: dict[str, bytes] = {}
        self.refused: set[str] = set()
        self._uploads: dict[str, bytearray] = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # An answer in one packet: of two, the second waits for the first's receipt.
            wbufsize = -1

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                status, headers, content = outer._answer(
                    self.command, self.path, self.headers, body
                )
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # A client that is done does not say good-bye.
        self._server.handle_error = lambda *_: None
        serve = functools.partial(self._server.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {"STORAGE_EMULATOR_HOST": self.address}
        self.place = "gs://bucket"

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, method, target, headers, body):
        url = urllib.parse.urlsplit(target)
        asked = dict(urllib.parse.parse_qsl(url.query))
        if method in self.refused:
            return _error(403, "Access denied. PERMISSION_DENIED")
        found = re.search(r"/b/([^/]+)(?:/o(?:/(.+))?)?$", url.path)
        if found and found[1] != "bucket":
            return _error(404, "The specified bucket does not exist.")
        name = urllib.parse.unquote(found[2]) if found and found[2] else ""
        if url.path.startswith("/upload/") or "upload_id" in asked:
            return self._upload(method, asked, headers, body)
        if name and method == "DELETE":
            known = self.objects.pop(name, None) is not None
            return (204, {}, b"") if known else _error(404, "Not Found")
        if name:
            if name not in self.objects:
                return _error(404, f"No such object: bucket/{name}")
            content = self.objects[name]
            if asked.get("alt") != "media":
                return _json(_about(name, content))
            part = re.match(r"bytes=(\d+)-(\d*)", headers.get("Range") or "")
            if part and int(part[1]) >= len(content):
                return _error(416, "Requested range not satisfiable")
            start = int(part[1]) if part else 0
            end = int(part[2]) + 1 if part and part[2] else len(content)
            piece = content[start:end]
            about = {"x-goog-generation": "1", "Accept-Ranges": "bytes"}
            last = start + len(piece) - 1
            if part:
                about["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
            return (206 if part else 200), about, piece
        if url.path.endswith("/o"):
            names = sorted(x for x in self.objects if x.startswith(asked["prefix"]))
            return _json({"items": [_about(x, self.objects[x]) for x in names]})
        return _json({"kind": "storage#bucket", "name": "bucket", "id": "bucket"})

    def _upload(self, method, asked, headers, body):
        if method == "POST":
            name = asked.get("name") or json.loads(body)["name"]
            upload = f"{len(self._uploads)}/{name}"
            self._uploads[upload] = bytearray()
            more = urllib.parse.urlencode({"upload_id": upload})
            where = f"{self.address}/upload/storage/v1/b/bucket/o?{more}"
            return 200, {"Location": where}, b""
        upload = asked["upload_id"]
        self._uploads[upload] += body
        sent = self._uploads[upload]
        if (headers.get("Content-Range") or "/").endswith("/*"):
            return 308, {"Range": f"bytes=0-{len(sent) - 1}"}, b""
        name = upload.partition("/")[2]
        self.objects[name] = bytes(sent)
        return _json(_about(name, self.objects[name]))


def _about(name, content):
    written = "2026-01-01T00:00:00.000Z"
    return {
        "kind": "storage#object",
        "bucket": "bucket",
        "name": name,
        "size": str(len(content)),
        "generation": "1",
        "metageneration": "1",
        "timeCreated": written,
        "updated": written,
    }


def _json(value):
    content = json.dumps(value).encode()
    return 200, {"Content-Type": "application/json"}, content


def _error(code, message):
    content = json.dumps({"error": {"code": code, "message": message}}).encode()
    return code, {"Content-Type": "application/json"}, content


@pytest.fixture(params=[Google, slow(S3)])
def object_store(request, monkeypatch):
    """A bucket; `place` is its URI."""
    server = request.param()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


@pytest.fixture
def google(monkeypatch):
    server = Google()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()
