"""The Dockerfile: pinned, of files that exist, not root, started by a command."""

import fnmatch
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_lines import parse_any, parse_with_config
from pages import blocks

from vop_jax.__main__ import COMMANDS, arguments_of

ROOT = Path(__file__).parents[2]
FILE = ROOT / "containers" / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(text):
    """The instructions of a Dockerfile, as (name, argument)."""
    lines = [x for x in text.splitlines() if not x.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    for line in filter(str.strip, joined.splitlines()):
        name, _, argument = line.partition(" ")
        yield name, " ".join(argument.split())


def is_sent(name):
    """Whether .dockerignore lets a file or folder at the top into a build."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            kept = line.startswith("!")
            if fnmatch.fnmatch(name, line.lstrip("!")):
                sent = kept
    return sent


def faults(text):
    """What is wrong with a Dockerfile, by kind."""
    found, user = set(), "root"
    for name, argument in instructions(text):
        if name == "FROM":
            user, base = "root", argument.split()[0]
            if not re.fullmatch(r"python:3\.1[123]\.\d+-slim-\w+", base):
                found.add("base is not pinned")
        elif name == "USER":
            user = argument
        elif name == "ARG":
            _, _, default = argument.partition("=")
            if not (ROOT / default).is_file():
                found.add("requirements do not exist")
        elif name == "COPY" and not argument.startswith("--from="):
            *sources, _ = argument.split()
            for source in sources:
                names = [x.name for x in ROOT.glob(source)]
                if not names or not all(map(is_sent, names)):
                    found.add("a source is not there")
        elif name == "RUN":
            if user != "root":
                found.add("installs as the user")
            if argument.count(" install ") != argument.count("--no-cache-dir"):
                found.add("keeps a cache")
            for package in re.findall(r" install (.*?)(?:&&|$)", argument):
                if not re.search(r"-r \S+|--no-deps \.", package):
                    found.add("a package is not pinned")
        elif name == "ENTRYPOINT" and json.loads(argument) != [*PROJECT["scripts"]]:
            found.add("entry point is not a command")
        elif name == "CMD" and not {*json.loads(argument)} <= {"--help", *COMMANDS}:
            found.add("not a command")
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
        found.add("runs as root")
    return found


def test_the_dockerfile_is_in_order():
    text = FILE.read_text()
    assert not faults(text)
    names = [name for name, _ in instructions(text)]
    assert names.count("FROM") == 2
    assert {"ENTRYPOINT", "CMD", "USER"} <= set(names)


BROKEN = {
    "base is not pinned": ("python:3.11.14-slim-bookworm AS", "python:3.11 AS"),
    "requirements do not exist": ("=requirements.txt", "=requirements-none.txt"),
    "a source is not there": ("COPY configs", "COPY tests"),
    "installs as the user": ("ENTRYPOINT", "RUN true\nENTRYPOINT"),
    "keeps a cache": (
        "install --no-cache-dir \\\n        --disable-pip-version-check -r",
        "install -r",
    ),
    "a package is not pinned": ('-r "$REQUIREMENTS"', "jax"),
    "entry point is not a command": ('["vop-jax"]', '["vop_jax"]'),
    "not a command": ('["--help"]', '["--hilfe"]'),
    "runs as root": ("USER 10001:10001", "USER 0:0"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_each_fault_is_found(fault):
    """Negative control."""
    right, wrong = BROKEN[fault]
    text = FILE.read_text()
    assert text.count(right) == 1
    assert fault in faults(text.replace(right, wrong))


def test_the_user_and_the_lines_to_build_it_are_those_of_the_file():
    text = FILE.read_text()
    (number,) = re.findall(r"--uid (\d+)", text)
    assert f"USER {number}:{number}\n" in text
    named = re.findall(r"REQUIREMENTS=([\w.-]+)", text)
    assert sorted(named) == [f"requirements{x}.txt" for x in ("-cuda", "-tpu", "")]
    assert all((ROOT / x).is_file() and is_sent(x) for x in named)
    pins = (ROOT / "requirements-test.txt").read_text()
    assert len(re.findall(r"^setuptools==", pins, re.M)) == 1


def test_a_build_sees_no_more_than_it_copies():
    copied = {
        path.name
        for name, argument in instructions(FILE.read_text())
        if name == "COPY" and not argument.startswith("--from=")
        for source in argument.split()[:-1]
        for path in ROOT.glob(source)
    }
    sent = {x.name for x in ROOT.iterdir() if is_sent(x.name)}
    assert sent == copied
    assert not is_sent(".git")


def test_the_lines_of_the_page_are_docker_s_and_of_this_file(monkeypatch):
    monkeypatch.chdir(ROOT)
    (built, run, _) = blocks((ROOT / "docs/containers.md").read_text())
    tags = set()
    for line in map(shlex.split, built.splitlines()):
        assert line[:4] == ["docker", "build", "-f", "containers/Dockerfile"]
        for option, value in itertools.pairwise(line):
            if option == "--build-arg":
                assert (ROOT / value.partition("REQUIREMENTS=")[2]).is_file()
            elif option == "-t":
                tags.add(value)
    assert built.count("\n") == len(tags) == 3
    for line in map(shlex.split, run.splitlines()):
        (image,) = tags & {*line}
        command, *arguments = line[line.index(image) + 1 :]
        given = arguments_of(command, arguments)
        configured = any(x.startswith("--config=") for x in given)
        parse = parse_with_config if configured else parse_any
        parse(COMMANDS[command], given)


def tool(name):
    """A program of requirements-cluster.txt."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    return found or pytest.skip(f"{name} is in requirements-cluster.txt")


@pytest.mark.slow
def test_hadolint_finds_nothing(tmp_path):
    command = [tool("hadolint"), "--no-color"]
    subprocess.run([*command, FILE], check=True)
    # Negative control.
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN pip install jax\n")
    done = subprocess.run(
        [*command, tmp_path / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert "DL3006" in done.stdout


@pytest.mark.slow
def test_shellcheck_finds_nothing(tmp_path):
    scripts = [ROOT / "run.sh", ROOT / ".ci/run", *(ROOT / "examples").glob("*.sh")]
    assert len(scripts) == 4
    subprocess.run([tool("shellcheck"), *scripts], check=True)
    # Negative control.
    (tmp_path / "x.sh").write_text("#!/bin/bash\nrm $1/x\n")
    assert subprocess.run(
        [tool("shellcheck"), tmp_path / "x.sh"], check=False
    ).returncode
