"""Plans a run on a TPU slice without a TPU: memory, FLOPs, traffic, time.

    python -m vop_jax.pod_plan --config=configs/vop.py:backbone=vit_b32 \
        --topology=v5e:4x4 [--caption_tokens=32] [--search] [--json]

Compiles the training and evaluation steps for that slice with libtpu. All values are
per chip. `backbone` is a folder, or a short name such as vit_b32 or siglip2_b16; no
weights are read. `--search` also searches for the largest batch that fits, which takes
several more compilations.
"""

import os

from absl import flags

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import say_json
from vop_jax.training.command_line import run_command


def define_flags() -> None:
    """Defines the flags besides `--config`."""
    flags.DEFINE_string("topology", None, "The slice, for example v5e:4x4; required.")
    flags.DEFINE_integer("caption_tokens", 32, "Caption length in tokens.", 1, 4096)
    flags.DEFINE_bool("search", False, "Search for the largest batch that fits.")
    flags.DEFINE_bool("evaluation", True, "Also plan the evaluation steps.")
    flags.DEFINE_bool("json", False, "Print JSON instead of tables.")


def run_pod_plan(given: flags.FlagValues) -> None:
    """Prints the plan."""
    if not given.topology:
        raise UserError("--topology is missing, for example --topology=v5e:4x4")
    # Imported late; JAX runs on the CPU, and libtpu only compiles.
    os.environ["JAX_PLATFORMS"] = "cpu"
    # A program for chips that are not there can be stored, but not loaded again.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    from vop_jax.devices.mesh import make_mesh
    from vop_jax.plan.programs import RunPrograms
    from vop_jax.plan.report import make_report, show
    from vop_jax.plan.topology import find_topology
    from vop_jax.training.config import check_config
    from vop_jax.training.preflight import check_backbone

    config = check_config(given.config.to_dict())
    topology = find_topology(given.topology)
    mesh = make_mesh(config.mesh, topology.devices)
    size = config.backbone_size()
    check_backbone(config, size)
    programs = RunPrograms(config, size, mesh, given.caption_tokens)
    report = make_report(
        programs,
        topology,
        programs.config,
        search=given.search,
        evaluation=given.evaluation,
    )
    if given.json:
        say_json(report)
    else:
        show(report)


if __name__ == "__main__":
    run_command(run_pod_plan, usage=__doc__, define=define_flags)
