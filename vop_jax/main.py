"""Trains and evaluates.

    python -m vop_jax.main --config=configs/vop.py[:method=vop_fc,dataset=demo]
        [--workdir=DIR] [--config.any.field=value]

Running the same command again goes on where it was broken off.

On several hosts the same command is started on each. Cloud TPU, GKE and SLURM tell JAX
the rest; elsewhere add --coordinator=HOST:PORT --process_count=N --process_id=I. A
folder may be gs://BUCKET/FOLDER.

Exit status: 0 done; 2 a mistake, said in one line; 75 another process is lost; 124 no
step was finished in config.step_timeout seconds; 143 SIGTERM, and the state is saved.
After 75, 124 and 143 the same command goes on. docs/pods.md says more.
"""

from typing import Any

from absl import flags

from data_pipelines.terminal import set_main_process
from vop_jax.command_line import run_command


def define_flags() -> None:
    """Defines the flags besides `--config`."""
    flags.DEFINE_string(
        "workdir", None, "The run's folder; runs/DATASET_METHOD where it is not given."
    )
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
    flags.DEFINE_integer(
        "process_count", None, "Number of processes; 1 looks for no cluster."
    )
    flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")
    flags.DEFINE_integer(
        "heartbeat_seconds",
        100,
        "Without a sign of life for so long, a process is lost and the others end.",
    )


def run_main(given: Any) -> None:
    """Runs the job of the flags."""
    # Imported late, so that a typing mistake is answered without a wait.
    from vop_jax import processes
    from vop_jax.config import check_config

    config = check_config(given.config.to_dict())
    # Before the processes are joined, see `processes.start`.
    from vop_jax.job import run_job
    from vop_jax.run_folder import RunFolder

    processes.start(
        given.coordinator,
        given.process_count,
        given.process_id,
        heartbeat_seconds=given.heartbeat_seconds,
    )
    set_main_process(processes.is_main())
    workdir = given.workdir or f"runs/{config.dataset}_{config.method}"
    processes.end_together(
        lambda: run_job(config, RunFolder(workdir)), given.heartbeat_seconds
    )


if __name__ == "__main__":
    run_command(run_main, usage=__doc__, define=define_flags)
