"""A run's `metrics.jsonl` and TensorBoard events."""

import json
import math
import time
from collections.abc import Iterator
from typing import Annotated, Any

from annotated_types import Ge
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, parse_json, read_utf8
from vop_jax.runtime.files import write_atomically
from vop_jax.runtime.run_folder import RunFolder

# Largest size of `metrics.jsonl`, bytes.
LARGEST_METRICS = 1 << 30


class Line(TypedDict):
    """The keys of every line of `metrics.jsonl`; all values are numbers or null."""

    step: Annotated[int, Ge(0)]


class MetricsWriter:
    """Writes `metrics.jsonl` and TensorBoard events.

    Args:
        folder: the run's folder.
        step: the step to resume from; later lines of an interrupted run are dropped,
            since they will be written again.

    Attributes:
        started: when the run was first started, seconds since 1970; stored in the
            first line.
    """

    def __init__(self, folder: RunFolder, step: int = 0):
        # Imported late: TensorBoard is slow to import and only training writes events.
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        if not kept or "started" not in kept[0]:
            kept.insert(0, {"step": 0, "started": time.time()})
        self.started: float = kept[0]["started"]
        write_atomically(
            folder.metrics, "".join(json.dumps(line) + "\n" for line in kept)
        )
        self._file = folder.metrics.open("a")
        self._events = EventFileWriter(str(folder.tensorboard))

    def write(self, step: int, **values: float) -> None:
        """Appends one line; a value that is not finite becomes null."""
        from tensorboard.compat.proto import event_pb2, summary_pb2

        values = {name: float(value) for name, value in values.items()}
        line = {
            name: value if math.isfinite(value) else None
            for name, value in values.items()
        }
        self._file.write(json.dumps({"step": step, **line}) + "\n")
        self._file.flush()
        summary = summary_pb2.Summary(  # pyright: ignore
            value=[
                summary_pb2.Summary.Value(  # pyright: ignore
                    tag=name, simple_value=value
                )
                for name, value in values.items()
            ]
        )
        self._events.add_event(
            event_pb2.Event(step=step, summary=summary)  # pyright: ignore
        )

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._events.close()


def read_metrics(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Yields the lines of `metrics.jsonl`; a truncated last line is left out."""
    if not folder.metrics.exists():
        return
    lines = read_utf8(folder.metrics, LARGEST_METRICS).splitlines()
    for number, line in enumerate(lines, 1):
        where = f"{folder.metrics}, line {number}"
        try:
            values = parse_json(line, where, finite=False)
        except UserError:
            if number == len(lines):
                return
            raise
        described(values, Line, where)
        described(values, dict[str, float | None], where)
        yield values
