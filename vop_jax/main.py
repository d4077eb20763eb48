"""Trains and evaluates.

    python -m vop_jax.main --config=configs/vop.py[:method=vop_fc,dataset=demo]
        [--workdir=DIR] [--config.any.field=value]

Running the same command again goes on where it was broken off.
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


def run_main(given: Any) -> None:
    """Runs the job of the flags."""
    # Imported late, so that a typing mistake is answered without a wait.
    import jax

    from vop_jax.config import check_config
    from vop_jax.job import run_job
    from vop_jax.run_folder import RunFolder

    config = check_config(given.config.to_dict())
    set_main_process(jax.process_index() == 0)
    workdir = given.workdir or f"runs/{config.dataset}_{config.method}"
    run_job(config, RunFolder(workdir))


if __name__ == "__main__":
    run_command(run_main, usage=__doc__, define=define_flags)
