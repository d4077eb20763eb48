"""A machine that is about to be taken away: save, then end."""

import signal
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from vop_jax.exit_status import PREEMPTED


class Preempted(SystemExit):
    """Ends the program with its status once the state is saved.

    Args:
        step: of the state that is saved.
    """

    def __init__(self, step: int):
        super().__init__(PREEMPTED)
        self.step = step


class Preemption:
    """Notices SIGTERM while its block runs.

    One process looks at the signal itself. Several have to save the same step, so there
    JAX's coordination service takes the signal of any of them and names a step that
    none has passed.
    """

    def __init__(self):
        self._noticed = False
        self._before = None

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._noticed = True

    def due(self, step: int) -> bool:
        """Whether the state after this step is to be saved and the run to end.

        Every process has to ask after every step.
        """
        if jax.process_count() == 1:
            return self._noticed
        return multihost_utils.reached_preemption_sync_point(step)
