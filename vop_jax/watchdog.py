"""Ends a run that hangs, and shows where it hung."""

import faulthandler
import os
import sys
import threading
import time
from types import TracebackType

from vop_jax.exit_status import STALLED


class Watchdog:
    """Ends the process when its block gives no sign of life for too long.

    It prints the stack of every thread and one line, and the status is `STALLED`.

    Args:
        seconds: longest time between two signs of life; 0 waits for ever.
        what: what has to happen in that time, for the line.
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
        """A sign of life."""
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
            "start again to go on from the last checkpoint\n"
        )
        os.write(2, line.encode())
        # Whatever hangs would hang an orderly end as well.
        os._exit(STALLED)
