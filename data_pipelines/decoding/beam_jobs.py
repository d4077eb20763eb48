"""Video decoding as an Apache Beam pipeline, on many machines."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.frame_store import read_notes
from data_pipelines.decoding.video_job import DecodeJob, Result
from data_pipelines.decoding.workers import Workers


def _failure_path(job: DecodeJob) -> Path:
    return Path(f"{job.frames}.failed")


class _Finish:
    """Decodes one video on the machine it is called on.

    Frames are written to their file. A failed video leaves its reason in a file beside
    it, so that nothing needs to be sent back.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds

    def __call__(self, job: Sequence[Any]) -> str:
        # In a worker process here too: a file that hangs must not block the machine.
        for done, result in Workers(1, self._seconds).run([DecodeJob(*job)]):
            if result.status:
                path = _failure_path(done)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(result))
        return job[0]


def run_jobs_on(
    runner: str, flags: Sequence[str], seconds: float
) -> Callable[[Sequence[DecodeJob]], Iterator[tuple[DecodeJob, Result]]]:
    """Returns a function that runs jobs on an Apache Beam runner.

    Args:
        runner: its name, such as `DirectRunner`, `FlinkRunner`, `DataflowRunner`.
        flags: Beam's own flags.
        seconds: time limit per file.

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

    def run(jobs: Sequence[DecodeJob]) -> Iterator[tuple[DecodeJob, Result]]:
        options = PipelineOptions([f"--runner={runner}", *flags])
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "videos" >> beam.Create([list(job) for job in jobs])
                # Without a reshuffle one machine would get all jobs.
                | "spread" >> beam.Reshuffle()
                | "finish" >> beam.Map(_Finish(seconds))
            )
        for job in jobs:
            yield job, _result(job)

    return run


def _result(job: DecodeJob) -> Result:
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
