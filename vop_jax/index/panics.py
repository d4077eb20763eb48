"""Standard error without the reports that LanceDB's threads print when they panic.

A damaged store can make a thread of LanceDB's panic. The panic becomes a Python error,
but Rust first prints a report of its own to file descriptor 2, and neither an
environment variable nor a function that Python can call turns that off. While LanceDB
runs, descriptor 2 therefore is a pipe, from which everything but the reports is passed
on.
"""

import atexit
import contextlib
import fcntl
import os
import re
import select
import sys
import threading
from collections.abc import Iterator

from data_pipelines.console.errors import UserError

_PIPE_BYTES = 1 << 20
# What Rust writes at once: the report, and what it says of backtraces.
_REPORT = re.compile(
    rb"\nthread 'lance[^']*' [^\n]*panicked at .*\n"
    rb"|stack backtrace:\n|note: [^\n]*`RUST_BACKTRACE=[^\n]*\n",
    re.DOTALL,
)
# How a report begins that is longer than Rust's buffer, and is written in pieces.
_LONG, _NAME = b"\nthread '", b"lance"
# Seconds in which other threads that met the same damage have printed their reports.
_LINGER = 0.5


class Filter:
    """Drops reports from a sequence of writes."""

    def __init__(self):
        self._begun = self._inside = False

    def shown(self, written: bytes) -> bytes:
        """What is shown of one write to standard error."""
        if self._begun:
            self._begun, self._inside = False, written.startswith(_NAME)
            return b"" if self._inside else _LONG + written
        if self._inside:
            # Other threads write lines; of the pieces only these two end one.
            self._inside = written != b"\n"
            return written if written[-1:] == b"\n" and len(written) > 2 else b""
        self._begun = written == _LONG
        return b"" if self._begun or _REPORT.fullmatch(written) else written


@contextlib.contextmanager
def no_reports() -> Iterator[None]:
    """Shows no report of a panic; all else that any thread prints is shown at once.

    Reports are shown with `RUST_BACKTRACE=full`, which asks for them, and where the
    system is not Linux, which alone keeps the writes to a pipe apart.
    """
    if os.environ.get("RUST_BACKTRACE") == "full" or sys.platform != "linux":
        yield
        return
    _diversion.begin()
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        _diversion.end()
        raise
    except BaseException:
        # Of several threads that met damage the first one's error ends the call. The
        # process does not end before a thread that is no daemon has.
        threading.Timer(_LINGER, _diversion.end).start()
        _diversion.copy()
        raise
    _diversion.end()


class _Diversion:
    """Descriptor 2 as a pipe while any thread wants it to be.

    Lost is only what is printed in the last instant before `os._exit` or a crash.
    """

    def __init__(self):
        self._turn, self._copying = threading.Lock(), threading.Lock()
        self._wanted = 0
        # The ends of the pipe, and where descriptor 2 leads otherwise; -1 before that.
        self._source = self._sink = self._shown = -1
        self._filter = Filter()

    def begin(self) -> None:
        """Diverts, unless another thread has."""
        with self._turn:
            self._wanted += 1
            # Fails if there is no descriptor 2: then there is nothing to show.
            with contextlib.suppress(OSError):
                if not self._is_diverted():
                    self._divert()

    def end(self) -> None:
        """Restores, unless another thread still wants it; all is passed on by then."""
        with self._turn:
            self._wanted -= 1
            if not self._wanted:
                self._restore()

    def copy(self) -> None:
        """Passes on what was written so far."""
        with self._copying:
            while self._source >= 0:
                try:
                    written = os.read(self._source, select.PIPE_BUF)
                except BlockingIOError:
                    return
                _write(self._shown, self._filter.shown(written))

    def _restore(self) -> None:
        # Others may have replaced it meanwhile.
        with contextlib.suppress(OSError):
            if self._is_diverted():
                os.dup2(self._shown, 2)
                self.copy()

    def _is_diverted(self) -> bool:
        return self._sink >= 0 and os.path.sameopenfile(self._sink, 2)

    def _divert(self) -> None:
        shown = os.dup(2)
        if self._sink < 0:
            # Each read returns one write: a report is told apart from what other
            # threads print at the same time, with or without lines of their own.
            packets = os.O_DIRECT | os.O_NONBLOCK | os.O_CLOEXEC
            self._source, self._sink = os.pipe2(packets)
            # Who writes waits for room, as it does at any descriptor 2.
            os.set_blocking(self._sink, True)
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._sink, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            threading.Thread(target=self._copy_always, daemon=True).start()
            # Of a call that never ends, or that an interrupt has ended anywhere.
            atexit.register(self._restore)
        with self._copying:
            before, self._shown = self._shown, shown
        if before >= 0:
            os.close(before)
        os.dup2(self._sink, 2)

    def _copy_always(self) -> None:
        """Passes on what is written while LanceDB runs, at once."""
        while True:
            select.select([self._source], [], [])
            self.copy()


def _write(file: int, data: bytes) -> None:
    # Nobody may be reading any more; what was printed is lost then, as it always is.
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(file, data) :]


_diversion = _Diversion()
