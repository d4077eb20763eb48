"""Who may ask: names, other sites' pages, the token."""

import contextlib
import re
import socket

import pytest
from moment_index import MomentIndex
from search_servers import ask, serving

from vop_jax.serving.gate import Names, is_loopback


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    with serving(MomentIndex(folder, []), folder / "cache") as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with a token, as beyond loopback."""
    folder = tmp_path_factory.mktemp("videos")
    with serving(MomentIndex(folder, []), folder / "cache", need_token=True) as server:
        yield server


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.0.0.1:8000", 403),
        ("[::1]:8000", 403),
        ("127.0.0.1:1@evil.example", 403),
        ("127.0.0.1@evil.example", 403),
        ("[127.0.0.1]evil.example", 403),
        ("[127.0.0.1]", 403),
        ("[127.0.0.1", 403),
        ("[localhost]", 403),
        ("127.0.0.1]", 403),
        ("127.0.0.1:x", 403),
        ("127.0.0.1:123456", 403),
        ("127.0.0.1:1:1", 403),
        ("127.0.0.1/evil.example", 403),
        ("localhost evil.example", 403),
        ("localhost:", 200),
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1", 200),
    ],
)
def test_the_server_answers_to_its_own_name_only(server, host, status):
    assert ask(server, "/", Host=host)[0] == status


def test_names_beyond_loopback_are_addresses_and_the_machine_s():
    """Without a token: a name in another's zone would be rebinding."""
    names = Names("0.0.0.0", "0.0.0.0")
    machine = socket.gethostname()
    for good in ("10.0.0.7:80", "[fe80::1]:80", machine, f"{machine}.local:8000"):
        assert names.hold(good)
    for malformed in ("[fe80::1", "[fe80::1]x", "[10.0.0.7]", "10.0.0.7:80@evil", "[]"):
        assert not names.hold(malformed)
    for bad in ("evil.example", f"{machine}.evil", "10.0.0.7.example", ""):
        assert names.hold(bad) is (bad == f"{machine}.evil")


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("name", False),
    ],
)
def test_what_only_this_machine_reaches(address, loopback):
    assert is_loopback(address) is loopback


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_open_the_page_and_nothing_else(server, site):
    """Another site's page could otherwise let a browser ask, and watch the time."""
    opens = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    for path in ("/api/search?q=red", "/thumbnail?moment=m0", "/play?video=x"):
        assert ask(server, path, Sec_Fetch_Site=site)[0] == 403
        assert ask(server, path, Sec_Fetch_Site=site, **opens)[0] == 403
    assert ask(server, "/", Sec_Fetch_Site=site)[0] == 403
    framed = opens | {"Sec_Fetch_Dest": "iframe"}
    assert ask(server, "/", Sec_Fetch_Site=site, **framed)[0] == 403
    assert ask(server, "/", Sec_Fetch_Site=site, **opens)[0] == 200
    for own in ("same-origin", "none"):
        assert ask(server, "/?q=red", Sec_Fetch_Site=own)[0] == 200


def test_every_answer_forbids_what_the_page_does_not_need(server):
    for path in ("/", "/nothing", "/api/search?q=a"):
        _, headers, _ = ask(server, path)
        policy = headers["Content-Security-Policy"]
        for rule in ("default-src 'none'", "form-action 'self'", "script-src 'self'"):
            assert rule in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Server" not in headers
    assert (
        "frame-ancestors" in ask(server, "/", Host="evil")[1]["Content-Security-Policy"]
    )


def test_a_body_is_refused(server):
    status, headers, _ = ask(server, "/", body=b"x" * 10)
    assert (status, headers["Connection"]) == (413, "close")
    assert ask(server, "/", Transfer_Encoding="chunked", body=[b"x"])[0] == 413
    status, headers, _ = ask(server, "/api/search?q=x", "POST", body=b"{}")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert headers["Connection"] == "close"
    assert ask(server, "/", Content_Length="0")[0] == 200
    status, headers, _ = ask(server, "/", method="POST")
    assert status == 405
    assert "GET" in headers["Allow"]


def test_a_head_is_bounded(server):
    # In several pieces it may be refused, and the connection be gone, before all of it
    # has come.
    with contextlib.suppress(ConnectionError):
        assert ask(server, "/?q=" + "x" * 100_000)[0] in (400, 431)
    # What comes in one piece is read as a whole.
    for long in (
        b"GET /?q=%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"x" * 40_000),
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: %s\r\n\r\n" % (b"x" * 40_000),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (b"A: b\r\n" * 8_000),
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as other:
            other.sendall(long)
            answer = other.recv(100)
            assert answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
    assert ask(server, "/", X="x" * 30_000)[0] == 200
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as other:
        other.sendall(b"GET /?q=")
        answer = b""
        # It refuses as soon as it has too much, and may be gone before the end.
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                other.sendall(b"x" * 16_384)
            answer = other.recv(100)
        assert not answer or answer.startswith(b"HTTP/1.1 400")
    assert ask(server, "/")[0] == 200


def test_the_token_of_the_address_becomes_a_cookie(guarded):
    assert re.fullmatch(r"http://127.0.0.1:\d+/\?token=[\w-]{32}", guarded.url)
    token = guarded.token
    for path in ("/", "/search.js", "/api/search?q=x", "/?token=", "/?token=x%ff"):
        status, headers, content = ask(guarded, path)
        assert status == 403
        assert b"the token" in content
        assert "Set-Cookie" not in headers
    assert ask(guarded, f"/?token={token}x")[0] == 403
    assert ask(guarded, f"/?token={token[:-1]}")[0] == 403
    # Case is part of it.
    assert ask(guarded, f"/?token={token.swapcase()}")[0] == 403
    status, headers, _ = ask(guarded, f"/?q=a+b%26&token={token}&folder=c")
    assert status == 303
    assert headers["Location"] == "/?q=a+b%26&folder=c"
    cookie = headers["Set-Cookie"]
    assert cookie.startswith(f"vop_jax_{guarded.port}={token}; ")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {*cookie.split("; ")}
    value = cookie.partition(";")[0]
    assert ask(guarded, "/", Cookie=f"a=b; {value}; c=d")[0] == 200
    assert ask(guarded, "/", Cookie=f"vop_jax_{guarded.port}=x")[0] == 403
    assert ask(guarded, "/", Cookie=f"other={token}")[0] == 403
    assert ask(guarded, "/", Authorization=f"Bearer {token}")[0] == 200
    assert ask(guarded, "/", Authorization=f"Bearer {token[1:]}")[0] == 403


def test_the_address_keeps_bytes_that_are_not_text(guarded):
    _, headers, _ = ask(guarded, f"/?like=%FF.mp4%401&token={guarded.token}")
    assert headers["Location"] == "/?like=%FF.mp4%401"


def test_the_token_leads_to_this_server_alone(guarded):
    for path in ("//evil.example/", "/\\evil.example/"):
        _, headers, _ = ask(guarded, f"{path}?token={guarded.token}")
        assert headers["Location"] == "/evil.example/"


def test_tokens_differ_and_are_compared_in_constant_time(guarded, monkeypatch):
    compared = []
    real = __import__("hmac").compare_digest

    def compare(one, other):
        compared.append(one)
        return real(one, other)

    monkeypatch.setattr("vop_jax.serving.gate.hmac.compare_digest", compare)
    ask(guarded, "/?token=guess")
    assert b"guess" in compared


def test_who_listens_to_others_needs_a_token(tmp_path):
    index = MomentIndex(tmp_path, [])
    with serving(index, tmp_path / "cache", host="0.0.0.0") as server:
        assert server.is_open
        assert server.token
        assert f"http://{socket.gethostname()}:" in server.url
        assert ask(server, "/")[0] == 403
        # The name is free: the cookie belongs to it.
        bearer = {"Authorization": f"Bearer {server.token}"}
        assert ask(server, "/", Host="proxy.example", **bearer)[0] == 200
    with serving(index, tmp_path / "cache", host="0.0.0.0", need_token=False) as server:
        assert server.url.endswith("/")
        assert ask(server, "/")[0] == 200
        assert ask(server, "/", Host="evil.example")[0] == 403


def test_ipv6(tmp_path):
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    with serving(MomentIndex(tmp_path, []), tmp_path / "cache", host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}/"
        assert not server.is_open
        assert ask(server, "/", host="::1")[0] == 200
        assert ask(server, "/", host="::1", Host="evil.example")[0] == 403
