"""Trains a method on a data set and evaluates it.

    python -m vop_jax.main --config=configs/vop.py[:method=vop_fc,dataset=demo]
        [--workdir=DIR] [--config.any.field=value]

Running the same command again resumes an interrupted run.

On several hosts start the same command on each. On Cloud TPU, GKE and SLURM JAX finds
the other processes; elsewhere add --coordinator=HOST:PORT --process_count=N
--process_id=I. A folder may be gs://BUCKET/FOLDER.

Exit status: 0 done; 2 a mistake, explained in one line; 75 another process was lost;
124 no step finished within config.step_timeout seconds; 130 Ctrl-C and 143 SIGTERM,
after the state is saved. After all but 2 the same command resumes. See docs/pods.md.
"""

from absl import flags

from data_pipelines.console.arguments import expanded, is_store
from data_pipelines.console.terminal import set_main_process
from vop_jax.training.command_line import run_command

# JAX takes both as 32-bit integers; a longer heartbeat, 12 days, is none.
_MOST_PROCESSES, _LONGEST_HEARTBEAT = 1_000_000, 1_000_000


def define_flags() -> None:
    """Defines the flags besides `--config`."""
    flags.DEFINE_string(
        "workdir", None, "The run's folder. (default: runs/DATASET_METHOD)"
    )
    found = "(default: found by JAX on Cloud TPU, GKE and SLURM)"
    flags.DEFINE_string("coordinator", None, f"HOST:PORT of process 0. {found}")
    flags.DEFINE_integer(
        "process_count",
        None,
        f"Number of processes; 1 looks for no cluster. {found}",
        lower_bound=1,
        upper_bound=_MOST_PROCESSES,
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        f"This process's number, from 0. {found}",
        lower_bound=0,
        upper_bound=_MOST_PROCESSES,
    )
    flags.DEFINE_integer(
        "heartbeat_seconds",
        100,
        "Seconds without a heartbeat after which a process counts as lost and the run "
        "ends.",
        lower_bound=1,
        upper_bound=_LONGEST_HEARTBEAT,
    )


def run_main(given: flags.FlagValues) -> None:
    """Runs the main job for the parsed flags."""
    # Imported late, so that a typing mistake is answered without a wait.
    from vop_jax.runtime import processes
    from vop_jax.training.config import check_config

    config = check_config(given.config.to_dict())
    is_store(config.data_dir, "--config.data_dir")
    workdir = given.workdir
    # An empty one, as of a shell's variable that is not set, is a mistake.
    if workdir is None:
        workdir = f"runs/{config.dataset}_{config.method}"
    if not is_store(workdir, "--workdir"):
        workdir = expanded(workdir, "--workdir")
    # Imported before the processes are joined, see `processes.start`.
    from vop_jax.runtime.run_folder import RunFolder
    from vop_jax.training.job import run_job

    processes.start(
        given.coordinator,
        given.process_count,
        given.process_id,
        heartbeat_seconds=given.heartbeat_seconds,
    )
    set_main_process(processes.is_main())
    processes.end_together(
        lambda: run_job(config, RunFolder(workdir)), given.heartbeat_seconds
    )


if __name__ == "__main__":
    run_command(run_main, usage=__doc__, define=define_flags)
