"""Ctrl-C and SIGTERM: the first ends a command in an orderly way, the second at once.

Python runs a signal handler only when the main thread is back in Python, which may be
an entire compilation later, and it drops an exception raised during garbage collection.
The interpreter's C handler writes the signal's number into a pipe at once
(`signal.set_wakeup_fd`), so a thread that reads the pipe misses none. It also raises
again what was dropped (`sys.unraisablehook`).

No exception is raised while a module is being imported, because half-initialized
libraries can hang or crash. It is raised as soon as the import is done.
"""

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any, NamedTuple, NoReturn

# What a shell reports for a program that SIGINT (128 + 2) or SIGTERM (128 + 15) ended.
INTERRUPTED, TERMINATED = 130, 143
# Seconds in which a command must end by itself after the first signal.
GRACE = 10.0
# Two signals closer than this (seconds) count as one: `timeout` and some launchers send
# each signal both to a process and to its group.
_APART = 0.3
# Seconds between checks whether an import is done.
_POLL = 0.05


class Ending(NamedTuple):
    """What a command says, and its exit status."""

    word: str
    status: int


ENDINGS: dict[int, Ending] = {
    signal.SIGINT: Ending("interrupted", INTERRUPTED),
    signal.SIGTERM: Ending("terminated", TERMINATED),
}

# Monotonic time of the first signal; shared by nested blocks, so that the second counts
# as the second whichever block is active.
_first: float | None = None
_noticed = 0
_depth = 0


class Terminated(KeyboardInterrupt):
    """SIGTERM, in the form in which libraries expect Ctrl-C."""


def ending_of(error: KeyboardInterrupt) -> Ending:
    """How a command ends that this ended."""
    return ENDINGS[signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT]


def _interrupt() -> NoReturn:
    raise Terminated if _noticed == signal.SIGTERM else KeyboardInterrupt


def leave_at_exit(how: Ending) -> None:
    """Ends the process at exit, before libraries take themselves apart.

    An interrupted compilation goes on in a thread of JAX and uses the devices that
    JAX's own exit function has destroyed by then: a segmentation fault in place of the
    status. Threads have been waited for when this is called, files are closed.
    """
    atexit.register(_leave, how.status)


def _leave(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        # Its reader may be gone.
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def is_interrupted() -> bool:
    """Whether a signal was noticed while the outermost block of `Interrupts` runs.

    C++ code turns a KeyboardInterrupt in a callback into an error of its own, so
    whoever continues after errors asks first.
    """
    return bool(_noticed)


class Interrupts:
    """Watches for SIGINT and SIGTERM while its block runs.

    It does nothing outside the main thread, or for a signal that is ignored, as SIGINT
    is for background jobs of a shell script.

    Args:
        first: called on the main thread at the first signal; by default it raises
            KeyboardInterrupt there, for SIGTERM `Terminated`.
        grace: seconds after which the process is ended if it still runs; None never
            ends it.
        signals: the signals to watch for.

    Attributes:
        noticed: the number of the signal that came while the block ran; 0 if none did.
    """

    def __init__(
        self,
        first: Callable[[], Any] = _interrupt,
        grace: float | None = GRACE,
        signals: Iterable[int] = tuple(ENDINGS),
    ):
        self._call, self._grace = first, grace
        self._signals = tuple(signals)
        self._before: dict[int, Any] = {}
        self.noticed = self._waiting = 0
        self._lost = False

    def __enter__(self) -> "Interrupts":
        global _first, _noticed, _depth
        if threading.current_thread() is not threading.main_thread():
            return self
        before = {number: signal.getsignal(number) for number in self._signals}
        before = {
            number: handler
            for number, handler in before.items()
            if handler not in (signal.SIG_IGN, None)
        }
        if not before:
            return self
        if not _depth:
            _first, _noticed = None, 0
        _depth += 1
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._unraisable = sys.unraisablehook
        sys.unraisablehook = self._drop
        for number in before:
            signal.signal(number, self._handle)
        self._before = before
        threading.Thread(target=self._watch, name="interrupts", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _depth
        if not self._before:
            return
        _depth -= 1
        # Keep watching: the command's last threads and open files may still hang.
        if self.noticed and self._grace is not None and not _depth:
            return
        sys.unraisablehook = self._unraisable
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._writer)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        global _noticed
        waits = self._call is _interrupt and _is_importing(frame)
        self._waiting = number if waits else 0
        if not waits and (self._lost or not self.noticed):
            self._lost = False
            self.noticed = _noticed = number
            self._call()

    def _drop(self, dropped: Any) -> None:
        """Python's hook for an exception that it can only report, in a destructor."""
        if not (self.noticed and issubclass(dropped.exc_type, KeyboardInterrupt)):
            self._unraisable(dropped)
            return
        self._lost = True
        # Wakes the thread; there is no signal of this number.
        os.write(self._writer, b"\0")

    def _watch(self) -> None:
        global _first
        end: float | None = None
        again = last = 0
        main = threading.main_thread().ident or 0
        while True:
            left = None if end is None else max(end - time.monotonic(), 0.0)
            settled = self.noticed and not self._lost
            look = left if left is None or settled else min(left, _POLL)
            if not select.select([self._reader], [], [], look)[0]:
                if left == look:
                    _end(last)
                if number := self._waiting or (self._lost and self.noticed):
                    # Calls the handler again, which also writes to the pipe; a call
                    # that waits ends at a signal alone.
                    again += 1
                    signal.pthread_kill(main, number)
                continue
            numbers = os.read(self._reader, 64)
            if not numbers:
                os.close(self._reader)
                return
            known = [number for number in numbers if number in self._before]
            last = known[-1] if known else last
            count = len(known)
            again, count = max(again - count, 0), count - again
            if count <= 0:
                continue
            now = time.monotonic()
            if _first is None:
                _first = now
                end = None if self._grace is None else now + self._grace
            elif now - _first >= _APART:
                _end(last, " again, ended at once")


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end(number: int, how: str = "") -> NoReturn:
    """Ends the process, whatever its main thread is doing."""
    word, status = ENDINGS[number]
    os.write(2, f"{word}{how}\n".encode())
    os._exit(status)
