"""A run of the small world that is killed at a step; started by the tests.

Arguments: a JSON object with `data_dir`, `method`, `changes` of the configuration,
`folder` of the run, `cache` of compiled programs and `step`.
"""

import json
import os
import signal
import sys

import jax
from small_job import SPLITS, config

from data_pipelines.datasets.demo import world
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training import loop
from vop_jax.training.run import assemble


def main(given):
    """Trains until the loss of that step is known."""
    jax.config.update("jax_compilation_cache_dir", given["cache"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    world.SPLITS = SPLITS
    look = loop._Loop.checked_loss

    def looked(self, done):
        loss = look(self, done)
        if done.step == given["step"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    loop._Loop.checked_loss = looked
    made = config(given["data_dir"], f"method={given['method']}", **given["changes"])
    loop.train(assemble(made, RunFolder(given["folder"])))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
