"""Connections that take too long, or are too many, are closed.

uvicorn limits how long a connection idles between two requests. What it leaves: one
that never sends a request, or sends it byte by byte, and one that does not read its
answer. Each holds a file descriptor for as long as it likes.
"""

import asyncio
import contextlib
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds in which a request's head must arrive, and in which a reader must go on
# reading. A browser reads no further while a video is paused, and asks again later.
HEAD_SECONDS, READ_SECONDS = 10.0, 120.0
# Open connections; beyond, the one that has idled longest is closed.
MOST = 1000
# Descriptors that are needed besides.
_OTHERS = 256
# Set on uvicorn's state when the server ends.
ENDING = "is_ending"


class BoundedConnection(H11Protocol):
    """One connection of a browser."""

    def __init__(self, *args: Any, **named: Any):
        super().__init__(*args, **named)
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self.idle_since = self.loop.time()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for a request."""
        super().connection_made(transport)
        # uvicorn would wait for it as if a request were under way.
        if getattr(self.server_state, ENDING, False):
            transport.abort()
            return
        self._await_head()
        if len(self.connections) > most_connections():
            idle = [x for x in self.connections if getattr(x, "is_idle", False)]
            oldest: Any = min(idle, key=lambda x: getattr(x, "idle_since", 0.0))
            oldest.transport.abort()
            # The set has it until the loop's next turn.
            self.connections.discard(oldest)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the timers."""
        super().connection_lost(exc)
        self._stop_waiting()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Waits on for the rest of a request's head, but no longer than before."""
        super().data_received(data)
        if self.is_idle and not self.transport.is_closing():
            self._await_head()
        else:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Counts the connection as idle from now on."""
        self.idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Waits for the reader, whose buffer is full."""
        super().pause_writing()
        if self._reading is None:
            self._reading = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The reader goes on."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


def most_connections() -> int:
    """How many connections may be open: `MOST`, or what the system's limit leaves."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST
    return max(16, min(MOST, soft - _OTHERS))


def allow_descriptors() -> None:
    """Raises this process's limit of open files as far as it needs and may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + _OTHERS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
