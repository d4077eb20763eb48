"""Where the time of a run goes: speed, waiting, utilisation, goodput."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax

# The events that JAX reports when a program is made; they do not nest.
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
    """Measures stretches of training; what lies between two is not counted.

    Args:
        batch_size: videos of a step, over all devices.
        started: when the run was started for the first time, seconds since 1970.
        productive: seconds that were spent on the steps before.
        peak: FLOP/s of one device, None where it is not known.
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
        """Begins a stretch."""
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0
        self._compiled_before, self._flops, self._lost = _compiled, 0.0, 0

    def waiting(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, with the time spent waiting for each counted."""
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
        """Adds the FLOPs of a step, one device's share."""
        self._flops += flops

    def lose(self, steps: int = 1) -> None:
        """Takes back steps that changed nothing."""
        self._lost += steps

    def end(self) -> None:
        """Ends a stretch; its steps count, and the next one begins."""
        self._productive += self._counted()
        self.begin()

    @property
    def productive(self) -> float:
        """Seconds spent on steps that counted, of all stretches that have ended."""
        return self._productive

    def _seconds(self) -> float:
        """Of this stretch, without compiling."""
        whole = time.perf_counter() - self._since
        return max(whole - (_compiled - self._compiled_before), 1e-9)

    def _counted(self) -> float:
        """Seconds of this stretch's steps that changed something."""
        share = max(self._steps - self._lost, 0) / max(self._steps, 1)
        return self._seconds() * share

    def figures(self) -> dict[str, float]:
        """Of the stretch that ends.

        Returns:
            `step_seconds`, `videos_per_second`, `data_wait_fraction` (the share spent
            waiting for data), `goodput` (the share of all time since the run's first
            start that was spent on steps that counted), and where the chip is known
            `model_flops_utilisation`.
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
