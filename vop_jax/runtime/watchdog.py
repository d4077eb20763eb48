"""Ends a run that hangs, and shows where."""

import faulthandler
import os
import sys
import threading
import time
from types import TracebackType

from vop_jax.runtime.exit_status import STALLED


class Watchdog:
    """Ends the process if its block makes no progress for too long.

    It prints the stack of every thread and one line, and the exit status is `STALLED`.

    Args:
        seconds: longest time between two calls of `alive`; 0 waits forever.
        what: what must happen in that time, for the message.
    """

    def __init__(self, seconds: float, what: str = "step was finished"):
        self._seconds, self._what = seconds, what
        self._alive = time.monotonic()
        self._over = threading.Event()

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self.alive()
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()

    def alive(self) -> None:
        """Reports progress, which restarts the time limit."""
        self._alive = time.monotonic()

    def _watch(self) -> None:
        while True:
            left = self._alive + self._seconds - time.monotonic()
            if left <= 0:
                break
            if self._over.wait(left):
                return
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        line = (
            f"error: no {self._what} for {self._seconds:g} s, the stacks are above; "
            "run the same command again to resume from the last checkpoint\n"
        )
        os.write(2, line.encode())
        # An orderly exit would hang as well.
        os._exit(STALLED)
