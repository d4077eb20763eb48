"""Runs a table or figure of the paper.

    python -m vop_jax.ablate --study=table1 [--dataset=demo] [--output=DIR]
        [--seeds=0,1,2] [--rates=0.33,1,3] [--search_epochs=N]

Every cell first searches its learning rate, as factors of the method's own, on the
validation split with the first seed; the test split is never looked at for it. The best
rate is then run with all seeds. What is finished is never run again, and a cell that
fails is reported and leaves the others alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines.arguments import Parser
from data_pipelines.errors import UserError, command
from data_pipelines.terminal import say
from vop_jax.startup import start_up
from vop_jax.studies import STUDIES, find_study


def _numbers(text: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r} is not a list of numbers like 0,1,2") from None


@command
def main() -> int:
    """Parses the flags and runs the study."""
    titles = "\n".join(f"  {name}: {study.title}" for name, study in STUDIES.items())
    parser = Parser("vop_jax.ablate", __doc__, epilog=f"studies:\n{titles}")
    parser.add_argument("--study", required=True, help=f"one of {', '.join(STUDIES)}")
    parser.add_argument("--dataset", default="demo", help="what to train on")
    parser.add_argument("--backbone", default="", help="a CLIP folder")
    parser.add_argument("--data_dir", default="data", help="prepared data sets")
    parser.add_argument("--output", type=Path, help="folder; runs/STUDY_DATASET")
    parser.add_argument("--seeds", default="0,1,2", help="of the final runs")
    parser.add_argument(
        "--rates", default="0.33,1,3", help="factors on each method's learning rate"
    )
    parser.add_argument("--epochs", type=int, help="instead of the data set's own")
    parser.add_argument(
        "--search_epochs", type=int, default=0, help="of the search's runs; as many"
    )
    flags = parser.parse_args()
    for name in ("epochs", "search_epochs"):
        if (getattr(flags, name) or 0) < 0:
            raise UserError(f"--{name} must not be negative")
    start_up()
    find_study(flags.study)
    # Imported late, so that a typing mistake is answered without a wait.
    from vop_jax.ablation import Ablation
    from vop_jax.config import default_values
    from vop_jax.study_page import write_csv, write_study_page

    def base(method: str) -> dict[str, Any]:
        values = default_values(method, flags.dataset, flags.backbone)
        values["data_dir"] = flags.data_dir
        values["epochs"] = flags.epochs or values["epochs"]
        return values

    output = flags.output or Path(f"runs/{flags.study}_{flags.dataset}")
    seeds, rates = _numbers(flags.seeds, int), _numbers(flags.rates, float)
    ablation = Ablation(flags.study, base, output, seeds, rates, flags.search_epochs)

    def report() -> None:
        write_csv(output / "results.csv", ablation.finished)
        write_study_page(
            output / "index.html",
            study=ablation.study,
            cells=ablation.cells,
            untuned=ablation.untuned.results,
            finished=ablation.finished,
            failed=ablation.failed,
            dataset=flags.dataset,
        )

    ablation.run(report)
    say(f"page: {output / 'index.html'}")
    return 1 if ablation.failed else 0


if __name__ == "__main__":
    main()
