"""How fast a task goes, and how long it still takes."""

import time


class Pace:
    """The pace of a task, measured from the end of its first units.

    With those, programs are compiled and processes started: counted, they would make
    an early estimate of the rest far too long.

    Args:
        total: number of units to do.
    """

    def __init__(self, total: float):
        self.total, self.done = total, 0.0
        self._since, self._before = time.monotonic(), 0.0
        self._started = self._since

    def add(self, count: float) -> None:
        """Adds units that are done."""
        if not self.done:
            self._since, self._before = time.monotonic(), count
        self.done += count

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def rate(self) -> float:
        """Units per second after the first ones; with them while there are no more."""
        later = self.done - self._before
        took = time.monotonic() - self._since
        if later > 0 and took > 0:
            return later / took
        return self.done / max(self.elapsed(), 1e-9)

    def seconds_left(self) -> float | None:
        """Seconds until all is done; None while that cannot be told."""
        if self.done >= self.total:
            return 0.0
        later = self.done > self._before
        return (self.total - self.done) / self.rate() if later else None
