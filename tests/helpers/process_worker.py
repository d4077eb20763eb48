"""One process of a run of several, through the true loop; started by the tests.

Arguments: a JSON object with `values` (the configuration), `folder`, `output`, `index`,
`count`, `coordinator` and `heartbeat`.
"""

import json
import os
import sys

import numpy as np


def main(given):
    from data_pipelines.console.terminal import quiet_libraries, set_main_process

    quiet_libraries()
    from vop_jax.runtime import processes
    from vop_jax.runtime.run_folder import RunFolder
    from vop_jax.training.checkpoint import Checkpoints
    from vop_jax.training.config import check_config
    from vop_jax.training.job import trained_values
    from vop_jax.training.loop import train
    from vop_jax.training.run import assemble
    from vop_jax.training.scores import Scores

    config = check_config(given["values"])
    single = given["count"] == 1
    processes.start(
        None if single else given["coordinator"],
        given["count"],
        given["index"],
        heartbeat_seconds=given["heartbeat"],
    )
    set_main_process(processes.is_main())
    moments = {}
    save = Checkpoints.save

    def kept(self, step, state, *rest):
        from vop_jax.training.checkpoint import arrays_by_path

        if step == 1:
            for name, leaf in arrays_by_path(state.optimizer).items():
                moments[name] = processes.to_host(leaf)
        save(self, step, state, *rest)

    Checkpoints.save = kept

    def work():
        run = assemble(config, RunFolder(given["folder"]))
        variables = train(run)
        similarity = Scores(run).similarity(run.model, variables, "test")
        leaves = trained_values(run, variables)
        np.savez(
            given["output"],
            similarity=similarity,
            **{f"moment:{name}": x for name, x in moments.items()},
            **{f"leaf:{name}": x for name, x in leaves.items()},
        )

    processes.end_together(work, given["heartbeat"])


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main(json.loads(sys.argv[1]))
