"""A trace of some steps, for TensorBoard's profile page."""

import re
from pathlib import PurePath

import jax

from data_pipelines.errors import UserError


def parse_profile_steps(text: str) -> tuple[int, int] | None:
    """The first and the last step of `first:last`; None for an empty text.

    Raises:
        UserError: not of this form, or the last is before the first.
    """
    if not text:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(
            f"config.profile_steps is {text!r}; give FIRST:LAST counted from 1, for "
            "example 10:15"
        )
    return int(found[1]), int(found[2])


class Profiler:
    """Traces the steps it is asked to; every process writes its own file.

    Args:
        folder: of TensorBoard's events.
        steps: `first:last`, or empty for none.
    """

    def __init__(self, folder: PurePath, steps: str):
        self._folder, self._steps = str(folder), parse_profile_steps(steps)
        self._running = False

    def before(self, step: int) -> None:
        """Call before a step is sent off."""
        if self._steps is not None and not self._running:
            first, last = self._steps
            if first <= step <= last:
                jax.profiler.start_trace(self._folder)
                self._running = True

    def last(self, step: int) -> bool:
        """Whether the trace ends with this step, which has to be finished first."""
        return self._running and self._steps is not None and step >= self._steps[1]

    def stop(self) -> None:
        """Writes the trace."""
        if self._running:
            self._running = False
            self._steps = None
            jax.profiler.stop_trace()
