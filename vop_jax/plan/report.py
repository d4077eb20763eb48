"""The plan of a configuration on a TPU slice, as JSON and as tables."""

from typing import TYPE_CHECKING, Any

from data_pipelines.console.terminal import say, table

# Imported late by `make_report`: a mistake in a flag is answered without JAX.
if TYPE_CHECKING:
    from vop_jax.devices.chips import Chip
    from vop_jax.plan.programs import Program, RunPrograms
    from vop_jax.plan.topology import Topology
    from vop_jax.training.config import RunConfig


def make_report(
    programs: "RunPrograms",
    topology: "Topology",
    config: "RunConfig",
    *,
    search: bool,
    evaluation: bool,
) -> dict[str, Any]:
    """Compiles the programs and returns all measurements as JSON values.

    Args:
        programs: the run's programs.
        topology: the slice.
        config: the run's configuration.
        search: whether to search for the largest batch.
        evaluation: whether to include the evaluation steps.
    """
    from vop_jax.plan.programs import DoesNotFit, largest_batch

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
        "mask_equal": config.mask_equal,
        "programs": {},
    }
    try:
        step = programs.train_step(config.batch_size)
        report["programs"]["train step"] = _measurements(step, chip, config.batch_size)
        seconds = report["programs"]["train step"]["estimated_seconds"]
        report["estimated_videos_per_second"] = config.batch_size / seconds
        report["estimated_videos_per_second_per_chip"] = (
            config.batch_size / seconds / chips
        )
    except DoesNotFit as error:
        report["programs"]["train step"] = {"fits": False, "reason": str(error)}
    if evaluation:
        for name, program in programs.evaluation(config.evaluation_batch_size).items():
            report["programs"][f"embed {name}"] = _measurements(program, chip, 0)
    if search:
        tried: dict[int, float | None] = {}

        def fits(batch: int) -> float | None:
            try:
                tried[batch] = programs.train_step(batch).peak / chip.memory
            except DoesNotFit:
                tried[batch] = None
            return tried[batch]

        limit = 4096 * chips
        report["largest_batch"] = largest_batch(fits, chips, config.batch_size, limit)
        report["tried"] = {str(size): share for size, share in sorted(tried.items())}
    return report


def _measurements(program: "Program", chip: "Chip", batch: int) -> dict[str, Any]:
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
    table("collectives", ["", "times", "kind", "type", "MiB"], sent)
    if "estimated_videos_per_second" in report:
        whole = report["estimated_videos_per_second"]
        each = report["estimated_videos_per_second_per_chip"]
        say(
            f"estimate at the chip's peak: {whole:,.0f} videos/s; the input pipeline "
            f"must then deliver {each:,.0f} videos/s per chip"
        )
    if "largest_batch" in report:
        say(f"largest batch that fits: {report['largest_batch']:,}")
