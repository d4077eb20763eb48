"""Runs a table or figure of the paper, or compares the methods since.

    python -m vop_jax.ablate --study=table1 [--dataset=demo] [--output=DIR]
        [--cells=NAME,NAME] [--seeds=0,1,2] [--rates=0.33,1,3] [--widen=N]
        [--search_epochs=N] [--loss=sigmoid]

For every cell the study first searches the learning rate, as factors of the method's
default, on the validation split with the first seed; the search never uses the test
split. The best rate is then run with all seeds; methods of one family share a search.
Finished runs are never repeated, and a cell that fails is reported while the others
continue. With --cells some rows are run; the page has what else is finished.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.console.arguments import Parser, local_path, place, store_path
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.names import shortened
from data_pipelines.console.ranges import SEEDS, Range, number
from data_pipelines.console.terminal import say
from vop_jax.model.methods import find_method
from vop_jax.optimization.config import LOSS_NAMES
from vop_jax.runtime.startup import start_up
from vop_jax.study.cells import RATES, STUDIES, find_study
from vop_jax.training.presets import EPOCHS

# Least ratio of two rates: a run's folder is named by three digits of its rate.
_APART = 1.01


def _numbers(
    flag: str, text: str, kind: Callable[[str], Any], within: Range
) -> list[Any]:
    """The numbers of a flag, each of them once."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"{flag}={shortened(text)} is not a list of numbers like 0,1,2"
        ) from None
    # A repeated run would count twice in every mean and deviation.
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{flag}={shortened(text)} names a number twice")
    if not all(x in within for x in numbers):
        raise UserError(
            f"{flag}={shortened(text)} is out of range; the numbers must be {within}"
        )
    return numbers


def _names(text: str) -> list[str]:
    """The names of a flag, each of them once."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if "" in names:
        raise argparse.ArgumentTypeError(
            f"{shortened(text)} has an empty name; write names like vop,vop_fc"
        )
    return names


def _check_apart(rates: Sequence[float]) -> None:
    """Checks that the runs of no two rates would have the same folder."""
    for low, high in itertools.pairwise(sorted(rates)):
        if high < low * _APART:
            raise UserError(
                f"--rates names {low} and {high}, which are less than 1% apart; their "
                "runs would share a folder, so leave one out"
            )


@command
def main() -> int:
    """Parses the flags and runs the study."""
    titles = "\n".join(f"  {name}: {study.title}" for name, study in STUDIES.items())
    parser = Parser("vop_jax.ablate", __doc__, epilog=f"studies:\n{titles}")
    parser.add_argument("--study", required=True, help=f"one of {', '.join(STUDIES)}")
    parser.add_argument("--dataset", default="demo", help="what to train on")
    parser.add_argument(
        "--backbone",
        type=place,
        help="folder or name of a CLIP (default: the data set's own)",
    )
    parser.add_argument(
        "--data_dir",
        type=lambda text: str(store_path(text)),
        default="data",
        help="folder of prepared data sets",
    )
    parser.add_argument(
        "--output",
        type=local_path,
        help="output folder of the study (default: runs/STUDY_DATASET)",
    )
    parser.add_argument(
        "--cells",
        type=_names,
        default=(),
        help="the rows to run, by name, with commas between them (default: all)",
    )
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the final runs")
    parser.add_argument(
        "--rates",
        default="0.33,1,3",
        help="factors on each method's learning rate to search over",
    )
    parser.add_argument(
        "--widen",
        type=number(int, Range(0, 10)),
        default=0,
        help="how often a search goes on beyond its range, by as much as between its "
        "last two rates, if the best rate is at an end of it (default: 0)",
    )
    parser.add_argument(
        "--loss",
        choices=LOSS_NAMES,
        default="auto",
        help="config.loss of all methods but those with a loss of their own",
    )
    parser.add_argument(
        "--epochs",
        type=number(int, EPOCHS),
        help="epochs of each final run (default: the data set's own)",
    )
    parser.add_argument(
        "--search_epochs",
        type=number(int, Range(0, EPOCHS.most)),
        default=0,
        help="epochs of each learning-rate search run (default: 0, the same as a final "
        "run)",
    )
    flags = parser.parse_args()
    seeds = _numbers("--seeds", flags.seeds, int, SEEDS)
    rates = _numbers("--rates", flags.rates, float, RATES)
    _check_apart(rates)
    start_up()
    find_study(flags.study)
    # Imported late, so that a typing mistake is answered without a wait.
    from vop_jax.runtime.files import in_room
    from vop_jax.runtime.run_folder import RunFolder
    from vop_jax.study.grid import StudyRuns
    from vop_jax.study.page import write_csv, write_study_page
    from vop_jax.training.config import default_values

    def base(method: str) -> dict[str, Any]:
        values = default_values(method, flags.dataset, flags.backbone or "")
        values["data_dir"] = flags.data_dir
        values["epochs"] = flags.epochs or values["epochs"]
        if not find_method(method).loss and flags.loss != "auto":
            values["loss"] = flags.loss
        return values

    def report(runs: StudyRuns) -> None:
        write_csv(output / "results.csv", runs.finished, runs.costs)
        write_study_page(
            output / "index.html",
            study=runs.study,
            cells=runs.cells,
            untuned=runs.untuned,
            finished=runs.finished,
            failed=runs.failed,
            costs=runs.costs,
            dataset=flags.dataset,
            epochs=runs.epochs,
            searched=runs.searches,
        )

    output = flags.output or Path(f"runs/{flags.study}_{flags.dataset}")
    # Before the backbone and the data are read.
    RunFolder(output, "--output").check_place()
    with in_room(output, flags.data_dir), RunFolder(output, "--output").alone():
        search = rates, flags.search_epochs, flags.widen
        runs = StudyRuns(flags.study, base, output, seeds, *search, only=flags.cells)
        runs.measure_costs()
        runs.run(lambda: report(runs))
    say(f"page: {output / 'index.html'}")
    return 1 if runs.failed else 0


if __name__ == "__main__":
    main()
