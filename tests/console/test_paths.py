"""Paths on this machine and in stores, and addresses, as they are typed."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_lines import (
    WITH_ARGPARSE,
    parsers_of,
)
from etils import epath
from fake_bucket import bucket  # noqa: F401

from data_pipelines.console.arguments import (
    check_address,
    check_local,
    is_store,
    local_path,
)
from data_pipelines.console.errors import UserError
from vop_jax import evaluate
from vop_jax.training.config import default_values

STORE = "gs://bucket/x"
SEARCHES = ("query", "serve", "export")
WRITTEN_TO_STORES = {"json", "ranks", "similarity_out", "report", "html", "data_dir"}
# What one command alone has in a store.
OF_ONE_COMMAND = {
    ("index", "output"),
    *((x, "index") for x in SEARCHES),
    *(("data_pipelines.prepare", x) for x in ("videos", "annotations", "output")),
}


@pytest.mark.parametrize("module", WITH_ARGPARSE)
def test_every_path_is_of_this_machine_or_of_a_store(module):
    """Each option that takes a path, whatever it is called."""
    seen = 0
    for parser in parsers_of(module):
        for action in parser._actions:
            words = {"file", "folder", "path", "index", ".npy", ".npz", "page"}
            text = set(re.findall(r"[\w.]+", action.help or "")) & words
            if not text or action.dest in ("decode", "to", "seconds", "max_megabytes"):
                continue
            if action.nargs == 0 or action.choices:
                continue
            seen += 1
            assert callable(action.type), (module, action.dest)
            for address in ("file:///x", "http://x/y", "file:/x", "ftp://x"):
                with pytest.raises(argparse.ArgumentTypeError):
                    action.type(address)
            command = parser.prog.split(" ")[-1]
            stored = (command, action.dest) in OF_ONE_COMMAND
            if stored or action.dest in WRITTEN_TO_STORES:
                assert str(action.type(STORE)) == STORE
            else:
                with pytest.raises(argparse.ArgumentTypeError, match="object store"):
                    action.type(STORE)
            with pytest.raises(argparse.ArgumentTypeError, match="empty"):
                action.type("")
            with pytest.raises(argparse.ArgumentTypeError, match="no such home"):
                action.type("~nobody-of-that-name/x")
    assert seen


def test_paths():
    assert is_store("s3://bucket/x")
    assert not is_store("runs/gs:x")
    assert local_path("a:b/c") == Path("a:b/c")
    assert local_path("~") == Path.home()
    for text in ("gs:/bucket/x", "gs://", "gs:///x"):
        with pytest.raises(UserError, match="names no bucket"):
            is_store(text, "--workdir")
    with pytest.raises(UserError, match="GS://b/x: write gs:// in lower case"):
        is_store("GS://b/x", "--workdir")
    with pytest.raises(UserError, match=r"^--input=gs://b is a path of an object"):
        check_local("gs://b", "--input")


@pytest.mark.parametrize(
    "text",
    ["gs://bu cket/x", "s3://a\nb/x", "gs://@/x", f"gs://{'b' * 223}", "s3://ö/x"],
)
def test_buckets_that_cannot_be(text):
    with pytest.raises(UserError, match=r"^--output='.*: the bucket's name is malf"):
        is_store(text, "--output")


@pytest.mark.parametrize(
    "path", ["../x", "x/./y", "x//y", "/x", "x\ny", "x\0", "x\udc80", "ö" * 128]
)
def test_paths_in_a_bucket_that_cannot_be(path):
    assert is_store("gs://bucket/" + "ö" * 127 + "/ a?b#c//")
    with pytest.raises(UserError, match="a part of the path is empty, ") as error:
        is_store(f"gs://bucket/{path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("workdir", "says"),
    [
        ("", "--workdir='' is an empty path"),
        ("file:///x", "--workdir=file:///x is an address; pass the path itself"),
        ("http://x/y", "--workdir=http://x/y is an address"),
        ("gs:/x", "--workdir=gs:/x names no bucket"),
        ("~nobody-of-that-name/x", "there is no such home"),
    ],
)
def test_the_folder_of_a_run_is_a_path(workdir, says, monkeypatch):
    from vop_jax.main import run_main

    class Given:
        config = type("", (), {"to_dict": staticmethod(default_values)})
        coordinator = process_count = process_id = None

    Given.workdir = workdir
    with pytest.raises(UserError) as error:
        run_main(Given)
    assert says in str(error.value)


def test_figures_are_written_to_a_store(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("sims.npy", np.eye(4, dtype=np.float32))
    line = ["--similarity=sims.npy", "--resamples=2"]
    with pytest.raises(SystemExit) as end:
        evaluate.main(
            [*line, "--json=gs://bucket/a.json", "--ranks=gs://bucket/b.json"]
        )
    assert end.value.code == 0
    assert json.loads((bucket / "a.json").read_text())["t2v"]["R@1"] == 100
    assert (bucket / "b.json").is_file()
    assert not (tmp_path / "gs:").exists()


def test_a_store_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("sims.npy", np.eye(4, dtype=np.float32))

    def broken(*_, **__):
        raise RuntimeError("no credentials\nand a second line")

    monkeypatch.setattr(epath.Path(STORE).__class__, "mkdir", broken)
    with pytest.raises(SystemExit) as end:
        evaluate.main(["--similarity=sims.npy", f"--json={STORE}", "--resamples=2"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {STORE} cannot be written (RuntimeError: no cred")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("host:1234", ("host", 1234)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
    ],
)
def test_addresses(text, found):
    assert check_address(text, "--coordinator") == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("host", "pass HOST:PORT"),
        ("::1", "stands in brackets"),
        ("::1:1234", "stands in brackets"),
        ("[::1]", "stands in brackets"),
        (":1234", "pass HOST:PORT"),
        ("host:", "pass HOST:PORT"),
        ("host:port", "pass HOST:PORT"),
        ("host:0", "a port is from 1 to 65535"),
        ("host:\uff11\uff12", "pass HOST:PORT"),
        ("host:65536", "a port is from 1 to 65535"),
        ("host:" + "9" * 5000, "a port is from 1 to 65535"),
        ("http://host:1", "pass HOST:PORT"),
        ("a b:1", "pass HOST:PORT"),
        ("x\n:1", "pass HOST:PORT"),
    ],
)
def test_wrong_addresses(text, says):
    with pytest.raises(UserError) as error:
        check_address(text, "--coordinator")
    assert says in str(error.value)
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)
