"""Traces steps with JAX's profiler, for TensorBoard's profile page.

JAX is imported late: a configuration is checked without it.
"""

import re
from pathlib import PurePath

from data_pipelines.console.errors import UserError


def parse_profile_steps(text: str) -> tuple[int, int] | None:
    """Parses `FIRST:LAST`; None for an empty text.

    Raises:
        UserError: it has another form, or the last step is before the first.
    """
    if not text:
        return None
    found = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(
            f"config.profile_steps is {text!r}; use FIRST:LAST counted from 1, for "
            "example 10:15"
        )
    return int(found[1]), int(found[2])


class Profiler:
    """Traces a range of steps; every process writes its own file.

    Args:
        folder: the folder of TensorBoard's events.
        steps: `FIRST:LAST`, or empty for none.
    """

    def __init__(self, folder: PurePath, steps: str):
        self._folder, self._steps = str(folder), parse_profile_steps(steps)
        self._running = False

    def before(self, step: int) -> None:
        """Starts the trace if it begins with this step; call before dispatching it."""
        if self._steps is not None and not self._running:
            first, last = self._steps
            if first <= step <= last:
                import jax

                jax.profiler.start_trace(self._folder)
                self._running = True

    def last(self, step: int) -> bool:
        """Whether the trace ends with this step, which must finish before `stop`."""
        return self._running and self._steps is not None and step >= self._steps[1]

    def stop(self) -> None:
        """Ends the trace and writes it."""
        if self._running:
            import jax

            self._running = False
            self._steps = None
            jax.profiler.stop_trace()
