"""Measurements of a run: speed, time spent waiting for data, utilisation, goodput."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax

# The events that JAX reports while it compiles a program; they do not nest.
_COMPILING = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_compiled = 0.0


def _listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    global _compiled
    if event in _COMPILING:
        _compiled += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


class Meter:
    """Measures intervals of training; time between two intervals is not counted.

    Args:
        batch_size: global batch size, videos per step.
        started: when the run was first started, seconds since 1970.
        productive: seconds spent on earlier steps, before the run was resumed.
        peak: peak FLOP/s of one device, None if unknown.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        started: float,
        productive: float = 0.0,
        peak: float | None = None,
    ):
        self._batch_size, self._peak = batch_size, peak
        self._started, self._productive = started, productive
        self.begin()

    def begin(self) -> None:
        """Begins an interval."""
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0
        self._compiled_before, self._flops, self._lost = _compiled, 0.0, 0

    def waiting(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, measuring the time spent waiting for each."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            if batch is None:
                return
            self._waited += time.perf_counter() - before
            self._steps += 1
            yield batch

    def count(self, flops: float) -> None:
        """Adds one device's FLOPs of a step."""
        self._flops += flops

    def lose(self, steps: int = 1) -> None:
        """Marks steps as unproductive because their update was skipped."""
        self._lost += steps

    def end(self) -> None:
        """Ends the interval, counts its steps as productive, and begins the next."""
        self._productive += self._counted()
        self.begin()

    @property
    def productive(self) -> float:
        """Seconds spent on productive steps, over all intervals that have ended."""
        return self._productive

    def _seconds(self) -> float:
        """Seconds of this interval, without compilation."""
        total = time.perf_counter() - self._since
        return max(total - (_compiled - self._compiled_before), 1e-9)

    def _counted(self) -> float:
        """Seconds of this interval's productive steps."""
        share = max(self._steps - self._lost, 0) / max(self._steps, 1)
        return self._seconds() * share

    def measurements(self) -> dict[str, float]:
        """The measurements of the current interval.

        Returns:
            `step_seconds`, `videos_per_second`, `data_wait_fraction` (the fraction
            spent waiting for data), `goodput` (the fraction of the time since the run's
            first start that was spent on productive steps), and if the chip's peak is
            known `model_flops_utilisation`.
        """
        seconds, steps = self._seconds(), max(self._steps, 1)
        found = {
            "step_seconds": seconds / steps,
            "videos_per_second": steps * self._batch_size / seconds,
            "data_wait_fraction": min(self._waited / seconds, 1.0),
        }
        if self._peak is not None:
            found["model_flops_utilisation"] = self._flops / (seconds * self._peak)
        lived = max(time.time() - self._started, 1e-9)
        productive = self._productive + self._counted()
        return found | {"goodput": min(productive / lived, 1.0)}
