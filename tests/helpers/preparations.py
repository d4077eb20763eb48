"""Preparing a data set: as a command, and without processes of its own."""

import subprocess
import sys
from pathlib import Path

from data_pipelines.decoding.video_job import DecodeJob, do_job


def prepare_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "data_pipelines.prepare", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


class InProcess:
    """Does the work of `Workers` here, which needs no processes, and counts it."""

    def __init__(self, *_):
        self.done = []

    def run(self, jobs):
        for job in jobs:
            self.done.append(Path(job.video).name)
            yield job, do_job(job)

    count = 1

    def decode(self, jobs, ahead, *, in_order):
        for place, job in enumerate(jobs):
            if isinstance(job, DecodeJob):
                self.done.append(Path(job.video).name)
                yield place, job, do_job(job), None
            else:
                yield place, job, None, None
