"""The work on videos as an Apache Beam pipeline, for many machines."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.frames_file import read_notes
from data_pipelines.video_job import Job, Result
from data_pipelines.workers import Workers


def _failure_path(job: Job) -> Path:
    return Path(f"{job.frames}.failed")


class _Finish:
    """Finishes one video on whatever machine it is called on.

    Frames go to their file; what gives none leaves its reason beside where they would
    be, so that nothing has to travel back.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds

    def __call__(self, job: Sequence[Any]) -> str:
        # A process of its own here too: a file that hangs must not hold the machine.
        for done, result in Workers(1, self._seconds).run([Job(*job)]):
            if result.status:
                path = _failure_path(done)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(result))
        return job[0]


def run_jobs_on(
    runner: str, flags: Sequence[str], seconds: float
) -> Callable[[Sequence[Job]], Iterator[tuple[Job, Result]]]:
    """What runs jobs on a runner of Beam.

    Args:
        runner: its name, such as `DirectRunner`, `FlinkRunner`, `DataflowRunner`.
        flags: Beam's own.
        seconds: what one file may take.

    Raises:
        UserError: Beam is not installed.
    """
    try:
        import apache_beam as beam  # pyright: ignore
        from apache_beam.options.pipeline_options import (  # pyright: ignore
            PipelineOptions,
        )
    except ImportError:
        raise UserError(
            "--runner needs Apache Beam, which is not installed; install "
            "vop_jax[beam] in an environment of its own, or leave --runner out"
        ) from None

    def run(jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        options = PipelineOptions([f"--runner={runner}", *flags])
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "videos" >> beam.Create([list(job) for job in jobs])
                # Without it one machine would get them all.
                | "spread" >> beam.Reshuffle()
                | "finish" >> beam.Map(_Finish(seconds))
            )
        for job in jobs:
            yield job, _result(job)

    return run


def _result(job: Job) -> Result:
    path = _failure_path(job)
    if read_notes(Path(job.frames)) is not None:
        return Result()
    try:
        status, message, notes, total = json.loads(path.read_text())
    except OSError:
        raise UserError(
            f"the runner finished without {job.frames}; do its machines see --output "
            "under the same path?"
        ) from None
    path.unlink()
    return Result(status, message, tuple(notes), total)
