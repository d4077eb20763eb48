"""Preemption (SIGTERM) and Ctrl-C: save the state, then end."""

import os
import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from data_pipelines.console.interrupts import Interrupts
from vop_jax.runtime.exit_status import INTERRUPTED, PREEMPTED
from vop_jax.runtime.processes import largest


class Preempted(SystemExit):
    """Ends the program after the state has been saved.

    Args:
        step: of the saved state.
        status: `PREEMPTED` or `INTERRUPTED`.
    """

    def __init__(self, step: int, status: int = PREEMPTED):
        super().__init__(status)
        self.step = step


class Preemption:
    """Notices SIGTERM and SIGINT while its block runs; a second SIGINT ends at once.

    A single process handles the signal itself. Several processes must save the same
    step, so JAX's coordination service catches the SIGTERM of any of them and names a
    step that none has passed. It ignores SIGINT, which is forwarded to it as SIGTERM.
    """

    def __init__(self):
        self._noticed = False
        self._before = None
        # No time limit: a compilation or a save may take arbitrarily long.
        self._interrupts = Interrupts(self._interrupt, None, (signal.SIGINT,))

    def __enter__(self) -> "Preemption":
        # Python allows signal handlers on the main thread only.
        if (
            jax.process_count() == 1
            and threading.current_thread() is threading.main_thread()
        ):
            self._before = signal.signal(signal.SIGTERM, self._notice)
        self._interrupts.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._interrupts.__exit__(kind, error, trace)
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._noticed = True

    def _interrupt(self) -> None:
        os.write(2, b"interrupted: saving; press Ctrl-C again to end at once\n")
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        self._noticed = True

    def status(self) -> int:
        """The exit status of the run; every process must call it after `due`."""
        interrupted = largest(int(self._interrupts.noticed))
        return INTERRUPTED if interrupted else PREEMPTED

    def due(self, step: int) -> bool:
        """Whether to save the state after this step and end the run.

        Every process must call it after every step.
        """
        if jax.process_count() == 1:
            return self._noticed
        return multihost_utils.reached_preemption_sync_point(step)
