"""Stands in for the Hugging Face hub on loopback: what its client asks for, no more.

A repository is a list of commits, each a dictionary of path -> bytes. Files of weights
are large ones, which the client uploads by themselves before it commits.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import pytest

LARGE = (".safetensors", ".bin")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def blob_id(content):
    """The id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """The repositories, and what was asked of them.

    Attributes:
        repositories: name -> its commits, the newest last: (id, files).
        asked: method and path of every request.
        sent: number of bytes of each file that was sent.
        received: number of bytes of large files that were received.
        refuses: status to answer writing with; 0 for none.
        stated: path -> a size to state in the place of the true one.
        large: the large files by their SHA-256.
    """

    def __init__(self):
        self.repositories = {}
        self.asked = []
        self.sent, self.received = {}, 0
        self.refuses = 0
        self.stated = {}
        self.large = {}
        self.url = ""

    def commit(self, repository, files):
        """Adds files to a repository, in one commit."""
        commits = self.repositories.setdefault(repository, [])
        held = (commits[-1][1] if commits else {}) | files
        text = json.dumps(
            [len(commits), repository, {k: sha256(held[k]) for k in held}]
        )
        commits.append((hashlib.sha1(text.encode()).hexdigest(), held))
        return commits[-1][0]

    def at(self, repository, revision):
        """The commit of a revision: (id, files), or None."""
        commits = self.repositories[repository]
        if revision == "main":
            return commits[-1] if commits else ("0" * 40, {})
        return next((x for x in commits if x[0] == revision), None)


def _entry(path, content):
    entry = {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": blob_id(content),
    }
    if path.endswith(LARGE):
        lfs = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
        entry["lfs"] = lfs
    return entry


def _upload(path, held):
    """How a file is to be uploaded, and what is there under its path."""
    mode = "lfs" if path.endswith(LARGE) else "regular"
    oid = None if held is None else blob_id(held)
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content, status=200, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers.setdefault("Content-Type", "application/json")
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _absent(self, kind):
        self._answer({"error": f"{kind} not found"}, 404, **{"X-Error-Code": kind})

    def _route(self):
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        self.hub.asked.append(f"{self.command} {path}")
        routes = [
            (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self._info),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?", self._tree),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        ]
        for form, answer in routes:
            found = re.fullmatch(form, path)
            if found:
                repository, revision, *rest = found.groups()
                if repository not in self.hub.repositories:
                    return self._absent("RepoNotFound")
                commit = self.hub.at(repository, revision or "main")
                if commit is None:
                    return self._absent("RevisionNotFound")
                return answer(repository, commit, *rest)
        return self._absent("EntryNotFound")

    do_GET = do_HEAD = _route

    def _info(self, repository, commit):
        siblings = []
        for path, content in commit[1].items():
            entry = _entry(path, content)
            size = self.hub.stated.get(path, entry["size"])
            file = {"rfilename": path, "blobId": entry["oid"], "size": size}
            if "lfs" in entry:
                file["lfs"] = entry["lfs"] | {"sha256": entry["lfs"]["oid"]}
            siblings.append(file)
        rest = {"private": False, "tags": [], "downloads": 0, "likes": 0}
        self._answer({"id": repository, "sha": commit[0], "siblings": siblings, **rest})

    def _tree(self, _, commit):
        self._answer([_entry(path, content) for path, content in commit[1].items()])

    def _resolve(self, repository, commit, path):
        if path not in commit[1]:
            return self._absent("EntryNotFound")
        content = commit[1][path]
        tag = sha256(content) if path.endswith(LARGE) else blob_id(content)
        if self.command == "GET":
            file = f"{repository}/{path}"
            self.hub.sent[file] = self.hub.sent.get(file, 0) + len(content)
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit[0]}
        return self._answer(content, **headers)

    def do_PUT(self):
        content = self._body()
        self.hub.large[sha256(content)] = content
        self.hub.received += len(content)
        self._answer(b"")

    def do_POST(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.hub.asked.append(f"POST {path}")
        body = self._body()
        if self.hub.refuses:
            return self._answer({"error": "not allowed"}, self.hub.refuses)
        if path == "/api/validate-yaml":
            return self._answer({"warnings": [], "errors": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            status = 409 if name in self.hub.repositories else 200
            self.hub.repositories.setdefault(name, [])
            return self._answer({"url": f"{self.hub.url}/{name}"}, status)
        if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            return self._answer(self._batch(json.loads(body)["objects"]))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/.+", path):
            held = self.hub.at(found[1], "main")[1]
            asked = [x["path"] for x in json.loads(body)["files"]]
            return self._answer({"files": [_upload(x, held.get(x)) for x in asked]})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/.+", path):
            made = self.hub.commit(found[1], self._committed(body))
            url = f"{self.hub.url}/{found[1]}/commit/{made}"
            return self._answer({"success": True, "commitOid": made, "commitUrl": url})
        return self._absent("EntryNotFound")

    def _committed(self, body):
        """The files of a commit: small ones are in it, large ones named by it."""
        files = {}
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        return files

    def _batch(self, objects):
        """Where to put each large file that is not there yet."""
        for entry in objects:
            if entry["oid"] not in self.hub.large:
                href = f"{self.hub.url}/put/{entry['oid']}"
                entry["actions"] = {"upload": {"href": href}}
        return {"transfer": "basic", "objects": objects}


@contextlib.contextmanager
def serving():
    """A hub on a free port of loopback."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(hub, cache):
    """The variables of a process that knows this hub alone."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(cache),
        "HF_TOKEN": "hf_test",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that this process asks, and an empty cache."""
    from huggingface_hub import constants

    with serving() as found:
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        files = f"{found.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield found
