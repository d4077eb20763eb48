"""Bounds on what runs and waits at once; more is refused instead of left hanging."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class BusyError(Exception):
    """There is no place for a task, or it takes too long."""

    def __init__(self, why: str = "too many requests at once"):
        super().__init__(why)


class Slots:
    """Runs functions in threads of its own.

    Args:
        running: at once.
        waiting: for a thread; more are refused.
        seconds: until a caller is told that it takes too long. The function still
            takes its place until it ends.
    """

    def __init__(self, running: int, waiting: int, seconds: float):
        self._pool = ThreadPoolExecutor(running, thread_name_prefix="slot")
        self._left, self._seconds = running + waiting, seconds
        self._lock = threading.Lock()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """The function's result.

        Raises:
            BusyError: too many are running and waiting, or it takes too long.
        """
        with self._lock:
            if not self._left:
                raise BusyError
            self._left -= 1
        try:
            future = self._pool.submit(function, *args)
        # The pool has been closed.
        except RuntimeError:
            self._release(None)
            raise BusyError from None
        future.add_done_callback(self._release)
        try:
            waiting = asyncio.shield(asyncio.wrap_future(future))
            return await asyncio.wait_for(waiting, self._seconds)
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()
            future.cancel()
            why = f"the answer takes more than {self._seconds:g} seconds"
            raise BusyError(why) from None

    def begin(self, function: Callable[[], Any]) -> None:
        """Runs a function that nobody waits for, beside the others."""
        self._pool.submit(function)

    def _release(self, future: Future | None) -> None:
        with self._lock:
            self._left += 1

    def close(self) -> None:
        """Starts nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
