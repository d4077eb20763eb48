"""The server under load, with slow and idle connections, and at its end."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from colour_model import ColourModel
from moment_index import Moment, MomentIndex, colour_tokenizer
from search_servers import ask, serving, together

from data_pipelines.console.errors import UserError
from vop_jax.search import as_json
from vop_jax.serving import connections, service
from vop_jax.serving import server as server_module
from vop_jax.serving.previews import Previews
from vop_jax.serving.server import SearchServer
from vop_jax.serving.slots import BusyError, Slots

ROOT = Path(__file__).parents[2]


def test_too_many_at_once_are_told_to_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "_SEARCHES", (1, 2, 10.0))
    index = MomentIndex(tmp_path, [Moment("a.mp4", 0, 1, (220, 20, 20))])
    search = index.search
    may_end = threading.Event()

    def slow(*args, **named):
        may_end.wait(10)
        return search(*args, **named)

    index.search = slow
    with serving(index, tmp_path / "cache") as server:
        threading.Timer(1.0, may_end.set).start()
        answers = together(12, lambda: ask(server, "/api/search?q=red"))
        by_status = {200: [], 503: []}
        for status, headers, content in answers:
            by_status[status].append((headers, content))
        assert len(by_status[200]) == 3
        assert len(by_status[503]) == 9
        headers, content = by_status[503][0]
        assert headers["Retry-After"] == "1"
        assert "too many requests" in json.loads(content)["error"]
        # The places are free again.
        assert ask(server, "/?q=red")[0] == 200


def test_one_that_takes_too_long_keeps_its_place_until_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "_SEARCHES", (1, 0, 0.2))
    index = MomentIndex(tmp_path, [])
    may_end = threading.Event()
    search = index.search
    index.search = lambda *args, **named: may_end.wait(20) and search(*args, **named)
    with serving(index, tmp_path / "cache") as server:
        status, _, content = ask(server, "/api/search?q=red")
        assert status == 503
        says = "the answer takes more than 0.2 seconds; try again"
        assert json.loads(content) == {"error": says}
        began = time.monotonic()
        assert ask(server, "/?q=red")[0] == 503
        assert time.monotonic() - began < 5
        assert server.service.searches._left == 0
        may_end.set()
        until = time.monotonic() + 10
        while ask(server, "/?q=red")[0] != 200:
            assert time.monotonic() < until


def test_the_tables_are_opened_before_a_picture_is_asked_for(tmp_path):
    index = MomentIndex(tmp_path, [])
    with serving(index, tmp_path / "cache"):
        assert index.opened.wait(10)


def test_a_closed_pool_is_busy():
    slots = Slots(1, 0, 1.0)
    assert asyncio.run(slots.run(lambda: 5)) == 5
    slots.close()
    with pytest.raises(BusyError):
        asyncio.run(slots.run(lambda: 5))


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def test_idle_connections_do_not_stop_the_service(server):
    idle = [connect(server) for _ in range(300)]
    try:
        assert ask(server, "/?q=red")[0] == 200
    finally:
        for one in idle:
            one.close()


def test_the_longest_idle_make_room(server, monkeypatch):
    monkeypatch.setattr(connections, "MOST", 20)
    idle = [connect(server) for _ in range(40)]
    try:
        assert ask(server, "/?q=red")[0] == 200
        # Below the time after which all of them would be closed.
        idle[0].settimeout(5)
        assert idle[0].recv(1) == b""
        idle[-1].settimeout(0.2)
        with pytest.raises(TimeoutError):
            idle[-1].recv(1)
        assert len(server._server.server_state.connections) <= 20
    finally:
        for one in idle:
            one.close()


@pytest.mark.parametrize(
    "sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nG"]
)
def test_a_head_that_does_not_come_is_not_waited_for(server, monkeypatch, sent):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with connect(server) as slow:
        slow.sendall(sent)
        began = time.monotonic()
        slow.settimeout(10)
        # A byte now and then does not lengthen it.
        ended = False
        while not ended and time.monotonic() - began < 10:
            try:
                slow.sendall(b"x")
                slow.settimeout(0.1)
                ended = not slow.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
        assert ended
        assert time.monotonic() - began < 5


def test_a_reader_that_stops_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "READ_SECONDS", 0.5)
    index = MomentIndex(tmp_path, [Moment("a.mp4", 0, 1, (1, 1, 1))])
    with (tmp_path / "a.mp4").open("wb") as file:
        file.truncate(200 << 20)
    with serving(index, tmp_path / "cache") as server:
        with connect(server) as slow:
            slow.sendall(b"GET /file?video=a.mp4 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            slow.recv(100)
            until = time.monotonic() + 15
            while server._server.server_state.connections and (
                time.monotonic() < until
            ):
                time.sleep(0.05)
            assert not server._server.server_state.connections
        # One that reads gets all.
        assert len(ask(server, "/file?video=a.mp4")[2]) == 200 << 20


def test_an_address_that_is_taken_or_none_is_one_line(server, tmp_path):
    for host, port, reason in (
        ("127.0.0.1", server.port, "Address already in use"),
        ("127.0.0.1", 99999, "a port is from 0 to 65535"),
        ("::1", -1, "a port is from 0 to 65535"),
        ("no host", 0, ""),
        ("x" * 70 + ".example", 0, ""),
    ):
        shown = f"[{host}]" if ":" in host else host
        with pytest.raises(UserError) as raised:
            SearchServer((host, port), server.service.index, None, None)
        said = str(raised.value)
        assert said.startswith(f"cannot listen at {shown}:{port} ({reason}")
        assert said.endswith("); use another --host or --port")


def test_who_connects_as_it_ends_does_not_hold_it_up(tmp_path, monkeypatch):
    """Uvicorn closes what is connected, and then waits for all who connect later."""
    monkeypatch.setattr(server_module, "_LAST_SECONDS", 30)
    model = ColourModel()
    model.tokenizer = colour_tokenizer()
    kept, index = Previews(tmp_path / "cache"), MomentIndex(tmp_path, [])
    with SearchServer(("127.0.0.1", 0), index, model, as_json, previews=kept) as server:
        shutdown = server._server.shutdown
        late = []

        async def with_a_late_one(sockets=None):
            ending = asyncio.ensure_future(shutdown(sockets))
            await asyncio.sleep(0)
            protocol = server._server.config.http_protocol_class(
                config=server._server.config,
                server_state=server._server.server_state,
                app_state={},
            )
            near, far = socket.socketpair()
            late.append(far)
            await asyncio.get_running_loop().create_connection(
                lambda: protocol, sock=near
            )
            await ending

        server._server.shutdown = with_a_late_one
        server.stop()
        began = time.monotonic()
        server.serve()
        assert time.monotonic() - began < 10
        late[0].close()


SERVE = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from moment_index import MomentIndex, Moment, colour_tokenizer
from vop_jax.search import as_json
from colour_model import ColourModel
from data_pipelines.console.errors import command
from vop_jax.serving.previews import Previews
from vop_jax.serving.server import SearchServer

@command
def main():
    folder = Path(sys.argv[3])
    model = ColourModel()
    model.tokenizer = colour_tokenizer()
    index = MomentIndex(folder, [Moment("a.mp4", 0, 1, (220, 20, 20))])
    if len(sys.argv) > 4:
        import time
        index.search = lambda *_, **__: time.sleep(2)
    kept = Previews(folder / "cache")
    address = ("127.0.0.1", 0)
    with SearchServer(address, index, model, as_json, previews=kept) as server:
        print(server.url, flush=True)
        server.serve()
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("busy", [False, True])
def test_a_signal_ends_it_in_order(tmp_path, number, busy):
    """Idle connections and a request under way do not hold it up."""
    paths = [str(ROOT / "tests/helpers"), str(ROOT), str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, *paths, *["busy"] * busy],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
        with socket.create_connection(("127.0.0.1", port)) as idle:
            if busy:
                idle.sendall(b"GET /?q=red HTTP/1.1\r\nHost: localhost\r\n\r\n")
                time.sleep(0.3)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert "Traceback" not in said or busy
    finally:
        process.kill()
