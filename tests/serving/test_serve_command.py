"""`search serve`: what it does before it says its address, and how it ends."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from colour_model import COLOURS, ColourModel, write_colour
from moment_index import colour_tokenizer
from search_servers import ask, serving

from data_pipelines.console.errors import UserError
from vop_jax import search
from vop_jax.index.video_index import VideoIndex
from vop_jax.serving.server import SearchServer
from vop_jax.weights.locate import BACKBONE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for name in COLOURS:
        write_colour(folder / "videos" / f"{name}.mp4", name)
    with VideoIndex.create(folder / "index") as index:
        index.update(ColourModel(), folder / "videos", "checkpoint")
    return folder / "index"


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs the command with a model of colours; gives its status and its output."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(search, "load_model", lambda *_, **__: ColourModel())
    tokenizer = colour_tokenizer()
    monkeypatch.setattr(ColourModel, "tokenizer", tokenizer, raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["search", "serve", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            search.main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def served(monkeypatch):
    """What `serve` is called on, which returns at once."""
    servers = []
    monkeypatch.setattr(SearchServer, "serve", lambda self: servers.append(self))
    return servers


def test_the_address_is_said_when_all_is_compiled(call, index, served, monkeypatch):
    monkeypatch.setattr(ColourModel, "compile_texts", lambda self: print("compiled"))
    status, out, err = call(f"--index={index}", "--port=0", "--top=3")
    assert (status, err) == (0, "")
    # Whoever sees the address waits for no compilation.
    assert out.index("compiled") < out.index("at http://127.0.0.1:")
    assert served[0].service.top == 3
    assert not served[0].token


def test_other_machines_need_the_token_of_the_address(call, index, served):
    status, out, err = call(f"--index={index}", "--port=0", "--host=0.0.0.0")
    assert (status, err) == (0, "")
    assert f"/?token={served[0].token} until" in out
    assert len(served[0].token) == 32
    arguments = (f"--index={index}", "--port=0", "--host=0.0.0.0", "--no_token")
    status, out, err = call(*arguments)
    assert status == 0
    assert "token=" not in out
    assert err == (
        "warning: --no_token: all who reach this machine can search and watch\n"
    )
    assert not served[1].token
    assert call(*arguments[:2], "--no-token")[0] == 0


def test_what_cannot_be_served_is_one_line(call, index, served, tmp_path):
    with SearchServer(("127.0.0.1", 0), None, ColourModel(), None) as other:
        for port, says in (
            (other.port, f"error: cannot listen at 127.0.0.1:{other.port} ("),
            (99999, "error: argument --port: '99999' is out of range"),
        ):
            status, out, err = call(f"--index={index}", f"--port={port}")
            assert (status, out) == (2, "")
            assert err.startswith(says)
            assert err.count("\n") == 1
    with pytest.raises(UserError, match="a port is from 0 to 65535"):
        SearchServer(("127.0.0.1", 99999), None, ColourModel(), None)
    status, _, err = call(f"--index={tmp_path / 'none'}")
    assert status == 2
    assert err.count("\n") == 1
    assert not served


def test_the_interface_answers_what_the_command_prints(
    index, tmp_path, monkeypatch, capsys
):
    model = ColourModel()
    model.tokenizer = colour_tokenizer()
    with (
        VideoIndex.open(index) as opened,
        serving(opened, tmp_path, model=model, as_json=search.as_json) as server,
    ):
        path = "/api/search?q=red&q=a+green+circle&top=2"
        status, headers, content = ask(server, path)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    monkeypatch.setattr(search, "load_model", lambda *_, **__: model)
    arguments = ["red", "a green circle", "--top=2", "--json"]
    monkeypatch.setattr(
        sys, "argv", ["search", "query", f"--index={index}", *arguments]
    )
    with pytest.raises(SystemExit):
        search.main()
    answered, printed = json.loads(content), json.loads(capsys.readouterr().out)
    assert set(answered.pop("seconds")) == set(printed.pop("seconds"))
    assert answered == printed
    assert len(answered["answers"][1]["hits"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_demo_is_served_until_a_signal(index, tmp_path, number):
    """The whole way, in a process of its own."""
    flags = (f"--videos={index.parent / 'videos'}", f"--checkpoint={BACKBONE}")
    start = [sys.executable, "-m", "vop_jax.search"]
    made = [*start, "index", *flags, f"--output={tmp_path / 'index'}"]
    subprocess.run(made, cwd=ROOT, check=True, capture_output=True)
    process = subprocess.Popen(
        [*start, "serve", f"--index={tmp_path / 'index'}", "--port=0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = re.search(r"http://\S+", process.stdout.readline())[0]
        with urllib.request.urlopen(f"{address}?q=a+red+circle", timeout=30) as answer:
            assert b"red.mp4" in answer.read()
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
        assert (process.returncode, said) == (0, "")
    finally:
        process.kill()
