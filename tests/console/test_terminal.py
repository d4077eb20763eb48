"""What is printed, where, and by whom."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipelines.console import terminal
from data_pipelines.console.printable import shell_word

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(terminal.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def other_process():
    terminal.set_main_process(False)
    yield
    terminal.set_main_process(True)


def run_python(source, **options):
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        **options,
    )


def test_a_plain_line_every_ten_seconds_and_a_last_one(clock, capsys):
    with terminal.progress("training", total=100, unit="videos") as bar:
        for step in range(25):
            clock.now += 1
            bar.advance(2, loss=f"{step}.5", wait="3%")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "training 20/100, 2.0 videos/s, loss 9.5 wait 3%, 10 s, 40 s left",
        "training 40/100, 2.0 videos/s, loss 19.5 wait 3%, 20 s, 30 s left",
        "training 50/100, 2.0 videos/s, loss 24.5 wait 3%, 25 s, 25 s left",
    ]


def test_what_the_first_step_takes_longer_is_not_in_the_time_left(clock, capsys):
    """It compiles."""
    with terminal.progress("training", total=100, unit="videos") as bar:
        clock.now += 60
        bar.advance(2)
        for _ in range(10):
            clock.now += 1
            bar.advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "training 2/100, 0.0 videos/s, 1:00",
        "training 22/100, 2.0 videos/s, 1:10, 39 s left",
        "training 22/100, 2.0 videos/s, 1:10, 39 s left",
    ]


def test_nothing_done_has_no_time_left(clock, capsys):
    with terminal.progress("reading", total=5, unit="files"):
        clock.now += 3
    assert capsys.readouterr().err == "reading 0/5, 0.0 files/s, 3 s\n"


def test_the_last_line_comes_after_an_error_too(clock, capsys):
    def fail():
        with terminal.progress("reading", total=5, unit="files") as bar:
            clock.now += 1
            bar.advance()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capsys.readouterr().err.startswith("reading 1/5, 1.0 files/s")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (62, "1:02"), (3602, "1:00:02")],
)
def test_the_clock(seconds, shown):
    assert terminal.clock(seconds) == shown


def test_a_table_keeps_every_cell_and_reads_no_markup(capsys):
    wide = "x" * 150
    terminal.table("[red]of [1]", ["model", "R@1 [%]"], [["a[b]", 1.5], [wide, "12"]])
    title, head, first, second = capsys.readouterr().out.splitlines()
    assert title.strip() == "[red]of [1]"
    assert head.split() == ["model", "R@1", "[%]"]
    assert first.split() == ["a[b]", "1.5"]
    assert second.split() == [wide, "12"]
    assert len({len(line.rstrip()) for line in (head, first, second)}) == 1


def test_other_processes_are_silent(other_process, clock, capsys):
    terminal.say("x")
    terminal.warn("x")
    terminal.table("x", ["x"], [["x"]])
    with terminal.progress("x", total=2, unit="x") as bar:
        clock.now += 60
        bar.advance()
    assert capsys.readouterr() == ("", "")


def test_the_main_process_is_heard(capsys):
    terminal.say("result")
    terminal.warn("look out")
    assert capsys.readouterr() == ("result\n", "warning: look out\n")


def read_terminal(source, stdout):
    """What a program writes to a terminal on its standard error."""
    primary, secondary = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        cwd=ROOT,
        stdout=subprocess.PIPE if stdout == "pipe" else secondary,
        stderr=secondary,
        env=environment,
    )
    os.close(secondary)
    seen, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([primary], [], [], 1)[0]:
            continue
        try:
            chunk = os.read(primary, 4096)
        except OSError:  # Linux's way of saying that the other end is closed.
            break
        if not chunk:
            break
        seen += chunk
    os.close(primary)
    piped = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    return seen.decode(), piped.decode() if piped else ""


BUSY = """
from data_pipelines.console.terminal import progress, say, table
with progress("[training]", total=8, unit="videos") as bar:
    bar.advance(4, loss="[1.25]")
    say("a result")
    table("figures", ["model"], [["vop"]])
    bar.advance(4)
"""


@pytest.mark.parametrize("stdout", ["pipe", "terminal"])
def test_on_a_terminal_the_line_is_redrawn(stdout):
    seen, piped = read_terminal(BUSY, stdout)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert plain != seen
    last = plain.replace("\r", "\n").rstrip().splitlines()[-1]
    assert re.match(r"\[training\] \S+ 8/8 [\d,.]+ videos/s loss \[1.25\] ", last)
    # Results stay on the standard output even while a line is being redrawn.
    results = piped if stdout == "pipe" else plain
    assert "a result" in results
    assert "vop" in results
    if stdout == "pipe":
        assert "a result" not in plain
        assert "\x1b" not in piped


def test_no_control_characters_without_a_terminal():
    done = run_python(BUSY)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    said = [line.strip() for line in done.stdout.splitlines()]
    assert said == ["a result", "figures", "model", "vop"]
    assert "8/8" in done.stderr


def test_quieting_imports_none_of_the_libraries_and_holds_afterwards():
    source = """
import os, sys
os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
from data_pipelines.console.terminal import quiet_libraries
quiet_libraries()
heavy = {"tensorflow", "transformers", "orbax", "jax", "tensorflow_datasets"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "4"
from absl import logging as absl_logging
import logging
absl_logging.info("chatter")
absl_logging.warning("chatter")
for name in ("orbax.checkpoint", "etils.epath", "jax._src", "tensorflow"):
    logging.getLogger(name).warning("chatter")
    logging.getLogger(name).error("trouble")
"""
    done = run_python(source)
    assert "chatter" not in done.stderr
    assert done.stderr.count("trouble") == 4


def test_quieting_leaves_what_the_user_has_set(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    terminal.quiet_libraries()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"


ODD = "a\x1b[2J\r\nb\x9b1m"


def test_text_of_any_content_is_said_on_one_line(capsys):
    terminal.say(ODD)
    assert capsys.readouterr().out == r"a\x1b[2J\r\nb\x9b1m" + "\n"


def test_a_table_and_a_progress_line_hold_no_codes_of_their_content(capsys, clock):
    terminal.table(ODD, ["", ODD], [["x", ODD]])
    with terminal.progress(ODD, total=1, unit="videos") as bar:
        bar.advance(1, file=ODD)
        clock.now += 1
    out, err = capsys.readouterr()
    lines = (out + err).splitlines()
    assert len(lines) == 4
    assert all(line.isprintable() and r"\x1b[2J" in line for line in lines)


def test_json_is_printed_as_it_is_but_for_codes(capsys):
    value = {"a": [ODD, "\x7f"]}
    terminal.say_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert out.startswith('{\n "a"')
    assert all(line.isprintable() for line in out.splitlines())


@pytest.mark.parametrize(
    "text",
    ["a b", "it's", ODD, "\\x07'7\x077", "\xa0x", "\udcff1", "!$HOME `x`\t", "-x\n"],
)
def test_a_shell_reads_the_word_as_it_was(text):
    word = shell_word(text)
    assert word.isprintable()
    run = subprocess.run(
        ["bash", "-c", f"printf %s {word}"], capture_output=True, check=True
    )
    assert run.stdout == os.fsencode(text)


def test_nothing_to_do_shows_no_progress(capsys):
    with terminal.progress("training", total=0, unit="videos"):
        pass
    assert not capsys.readouterr().err
