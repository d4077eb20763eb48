"""Whether a configuration fits a TPU slice, and what it moves, before it is rented.

    python -m vop_jax.pod_plan --config=configs/vop.py:backbone=vit_b32 \
        --topology=v5e:4x4 [--caption_tokens=32] [--search] [--json]

Compiles the very steps that train and evaluate for that slice, with libtpu and without
a TPU. Everything is of one chip. `backbone` is a folder, or one of vit_b32, vit_b16,
vit_l14, vit_l14_336: no weights are read. `--search` also looks for the largest batch
that fits, in some further compilations.
"""

import json
import os
from typing import Any

from absl import flags

from data_pipelines.errors import UserError
from data_pipelines.terminal import say, table
from vop_jax.command_line import run_command


def define_flags() -> None:
    """Defines the flags besides `--config`."""
    flags.DEFINE_string("topology", None, "The slice, for example v5e:4x4.")
    flags.DEFINE_integer("caption_tokens", 32, "Tokens that captions are cut to.")
    flags.DEFINE_bool("search", False, "Look for the largest batch that fits.")
    flags.DEFINE_bool("evaluation", True, "Plan the steps of the evaluation as well.")
    flags.DEFINE_bool("json", False, "Print JSON instead of tables.")


def run_pod_plan(given: Any) -> None:
    """Prints the plan."""
    if not given.topology:
        raise UserError("--topology is missing, for example --topology=v5e:4x4")
    # Imported late, and on the CPU: libtpu is only asked to compile.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from vop_jax.backbone import load_size
    from vop_jax.config import check_config
    from vop_jax.planning import Plan
    from vop_jax.sharding import make_mesh
    from vop_jax.sizes import SIZES
    from vop_jax.topology import find_topology

    config = check_config(given.config.to_dict())
    topology = find_topology(given.topology)
    mesh = make_mesh(config.mesh, topology.devices)
    size = SIZES.get(config.backbone) or load_size(config.backbone_folder)
    plan = Plan(config, size, mesh, given.caption_tokens)
    report = make_report(
        plan, topology, config, search=given.search, evaluation=given.evaluation
    )
    if given.json:
        say(json.dumps(report, indent=1))
    else:
        show(report)


def make_report(
    plan: Any, topology: Any, config: Any, *, search: bool, evaluation: bool
) -> dict[str, Any]:
    """All figures as JSON values."""
    from vop_jax.planning import DoesNotFit, largest_batch

    chips, chip = len(topology.devices), topology.chip
    report: dict[str, Any] = {
        "topology": topology.name,
        "chips": chips,
        "memory": chip.memory,
        "method": config.method,
        "backbone": config.backbone,
        "batch_size": config.batch_size,
        "num_frames": config.num_frames,
        "compute": vars(config.compute),
        "mesh": vars(config.mesh),
        "micro_batch": config.micro_batch,
        "loss_chunk": config.loss_chunk,
        "programs": {},
    }
    try:
        step = plan.train_step(config.batch_size)
        report["programs"]["train step"] = _figures(step, chip, config.batch_size)
        seconds = report["programs"]["train step"]["estimated_seconds"]
        report["estimated_videos_per_second"] = config.batch_size / seconds
        report["estimated_videos_per_second_per_chip"] = (
            config.batch_size / seconds / chips
        )
    except DoesNotFit as error:
        report["programs"]["train step"] = {"fits": False, "reason": str(error)}
    if evaluation:
        for name, program in plan.evaluation(config.evaluation_batch_size).items():
            report["programs"][f"embed {name}"] = _figures(program, chip, 0)
    if search:
        tried: dict[int, float | None] = {}

        def fits(batch: int) -> float | None:
            try:
                tried[batch] = plan.train_step(batch).peak / chip.memory
            except DoesNotFit:
                tried[batch] = None
            return tried[batch]

        limit = 4096 * chips
        report["largest_batch"] = largest_batch(fits, chips, config.batch_size, limit)
        report["tried"] = {str(size): share for size, share in sorted(tried.items())}
    return report


def _figures(program: Any, chip: Any, batch: int) -> dict[str, Any]:
    seconds = max(program.flops / chip.flops, program.bytes_moved / chip.bandwidth)
    return {
        "fits": program.peak <= chip.memory,
        "arguments": program.arguments,
        "outputs": program.outputs,
        "temporaries": program.temporaries,
        "peak": program.peak,
        "flops": program.flops,
        "compiler_flops": program.compiler_flops,
        "compiler_bytes": program.compiler_bytes,
        "bytes_moved": program.bytes_moved,
        "estimated_seconds": seconds,
        "collectives": [
            {"times": times, **collective._asdict()}
            for collective, times in program.collectives.items()
        ],
    }


def show(report: dict[str, Any]) -> None:
    """Prints tables."""
    mib = 2**20
    rows, sent = [], []
    for name, found in report["programs"].items():
        if "peak" not in found:
            rows.append([name, "does not fit", *[""] * 6])
            continue
        rows.append(
            [
                name,
                f"{found['arguments'] / mib:,.0f}",
                f"{found['temporaries'] / mib:,.0f}",
                f"{found['peak'] / mib:,.0f} of {report['memory'] / mib:,.0f}",
                "yes" if found["fits"] else "no",
                f"{found['flops'] / 1e9:,.1f}",
                f"{found['bytes_moved'] / 1e9:,.2f}",
                f"{1000 * found['estimated_seconds']:,.2f}",
            ]
        )
        sent += [
            [name, str(x["times"]), x["kind"], x["type"], f"{x['size'] / mib:,.3f}"]
            for x in found["collectives"]
        ]
    table(
        f"{report['method']} on {report['topology']}, batch {report['batch_size']}; "
        "one chip, MiB",
        [
            "",
            "arguments",
            "temporaries",
            "peak",
            "fits",
            "GFLOP",
            "GB moved",
            "ms, estimate",
        ],
        rows,
    )
    table("sent between chips", ["", "times", "kind", "what", "MiB"], sent)
    if "estimated_videos_per_second" in report:
        whole = report["estimated_videos_per_second"]
        each = report["estimated_videos_per_second_per_chip"]
        say(
            f"estimate, if the chip's peak were reached: {whole:,.0f} videos/s; the "
            f"feed must then give {each:,.0f} a second and chip"
        )
    if "largest_batch" in report:
        say(f"largest batch that fits: {report['largest_batch']:,}")


if __name__ == "__main__":
    run_command(run_pod_plan, usage=__doc__, define=define_flags)
