"""Nothing but reports of LanceDB's panics is kept from standard error."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data_pipelines.console.errors import UserError
from vop_jax.index.panics import Filter, no_reports
from vop_jax.index.store_errors import reading

ROOT = Path(__file__).parents[2]
WORKER = b"\nthread 'lancedb-tokio-worker' (41) panicked at /a/field.rs:193:42:\n"
NOTES = (
    b"note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n",
    b"stack backtrace:\n",
    b"note: Some details are omitted, run with `RUST_BACKTRACE=full` for more.\n",
)
# A report that is longer than Rust's buffer.
PIECES = (
    *(b"\nthread '", b"lance-cpu", b"' (", b"41", b") panicked at ", b"/a/field.rs"),
    *(b":", b"193", b":", b"42", b":\n", b"range end\nindex 12" * 40, b"\n"),
)


def shown(*writes):
    kept = Filter()
    return b"".join(map(kept.shown, writes))


@pytest.mark.parametrize(
    "report",
    [(WORKER + b"range end\n index 12\n",), *((note,) for note in NOTES), PIECES],
)
def test_a_report_is_not_shown(report):
    assert shown(b"before\n", *report, b"\n", b"behind", b"\n") == (
        b"before\n\nbehind\n"
    )


@pytest.mark.parametrize(
    "writes",
    [
        (b"a line\n", b"a part", b"\r", b"\n"),
        (b"note: a backtrace\n", b"it panicked at /a/field.rs:193:42:\n"),
        # Of other libraries.
        (WORKER.replace(b"lancedb-", b"") + b"range end\n",),
        (b"\nthread '", b"main", b"' (", b"41", b") panicked at ", b"a.rs:1", b"\n"),
        (b"", b"x" * 4096),
    ],
)
def test_all_else_is_shown(writes):
    assert shown(*writes) == b"".join(writes)


def test_lines_between_the_pieces_of_a_report_are_shown():
    for at in range(2, len(PIECES)):
        assert shown(*PIECES[:at], b"a line\n", *PIECES[at:]) == b"a line\n"


@contextlib.contextmanager
def written_to(path):
    """Descriptor 2 leads to a file, which unlike `capfd` reading does not empty."""
    before, file = os.dup(2), os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(file)


def test_threads_lose_no_line_and_keep_their_order(tmp_path):
    """Each enters and leaves at its own times, and writes inside and outside."""
    big = "x" * 20_000
    all_done, one_at_a_time = threading.Barrier(4), threading.Lock()

    def write(number):
        for i in range(60):
            with no_reports():
                os.write(2, f"{number} {i} in\n".encode())
                os.write(2, WORKER + b"range end\n")
                os.write(2, NOTES[0])
            os.write(2, f"{number} {i} out\n".encode())
        # A pipe takes so much in pieces, between which others' lines may come.
        all_done.wait()
        with one_at_a_time, no_reports():
            os.write(2, f"{number} {big}\n".encode())

    said = tmp_path / "said"
    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    with written_to(said):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    turns = [f"{i} {where}" for i in range(60) for where in ("in", "out")]
    wanted = sorted(f"{n} {x}" for n in range(4) for x in [*turns, big])
    # What a thread writes as another one leaves is shown a moment later.
    end = time.monotonic() + 10
    while len(said.read_text().splitlines()) < len(wanted) and time.monotonic() < end:
        time.sleep(0.01)
    lines = said.read_text().splitlines()
    assert sorted(lines) == wanted
    for number in range(4):
        mine = [x[2:] for x in lines if x.startswith(f"{number} ")]
        assert [x for x in mine if x.endswith("in")] == turns[::2]


def test_what_is_written_is_shown_at_once(capfd):
    with no_reports():
        os.write(2, b"a long call goes on\n")
        end = time.monotonic() + 10
        while not (said := capfd.readouterr().err) and time.monotonic() < end:
            time.sleep(0.01)
    assert said == "a long call goes on\n"


def test_late_reports_of_a_failed_call_are_not_shown(tmp_path, capfd):
    with pytest.raises(UserError, match="cannot be used"), reading(tmp_path):
        raise RuntimeError("rust future panicked")
    os.write(2, WORKER + b"range end\n")
    os.write(2, b"a line\n")
    for timer in threading.enumerate():
        if isinstance(timer, threading.Timer):
            timer.join()
    assert capfd.readouterr().err == "a line\n"


def test_another_standard_error_is_kept(tmp_path):
    before = os.dup(2)
    with open(tmp_path / "said", "w") as other:
        with no_reports():
            os.dup2(other.fileno(), 2)
        assert os.path.sameopenfile(2, other.fileno())
        with no_reports():
            os.write(2, b"a line\n")
        os.dup2(before, 2)
    os.close(before)
    assert (tmp_path / "said").read_text() == "a line\n"


def test_what_is_printed_at_exit_is_shown():
    """Also if a call has not ended, as in a thread that is a daemon."""
    code = """
import atexit, os
atexit.register(os.write, 2, b"at exit\\n")
from vop_jax.index import panics
panics._diversion.begin()
os.write(2, b"before\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True
    )
    assert done.stderr == b"before\nat exit\n"


def test_a_full_backtrace_is_shown_to_whoever_asks_for_it(capfd, monkeypatch):
    monkeypatch.setenv("RUST_BACKTRACE", "full")
    with no_reports():
        os.write(2, WORKER + b"range end\n")
    assert capfd.readouterr().err.endswith("range end\n")
