"""Trains on your own videos and a CSV of captions: prepares, trains, scores, reports.

    vop-jax train --videos=DIR --captions=FILE.csv [--backbone=NAME] [--output=DIR]
    python -m vop_jax.train --videos=DIR --captions=FILE.csv [--config.any.field=value]

The CSV has a header with the columns `video` (a path below DIR) and `caption`, and
optionally `split`; a video in several rows has several captions. What is not set is
chosen by the number of videos and told with the reason. The same command resumes an
interrupted run and repeats nothing.

Without --videos and --captions, `vop-jax train` is `python -m vop_jax.main`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from data_pipelines.console.arguments import check_local, expanded, fold
from data_pipelines.console.errors import UserError
from vop_jax.own_data.choices import METHOD
from vop_jax.training.command_line import run_command

_CONFIG = Path(__file__).parent / "configs" / "vop.py"
# The flags that set a field of the configuration, and what they are.
_FIELDS = {
    "backbone": "A CLIP: folder, short name or name on the hub, or demo for the "
    "embedded one. (default: vit_b32, OpenAI's ViT-B/32)",
    "method": f"What is trained; see the methods below. (default: {METHOD})",
    "epochs": "Number of epochs. (default: chosen by the number of captions)",
    "batch_size": "Videos per step. (default: chosen by the number of videos)",
    "seed": "Seed of the prompts and of the order of the data. (default: 0)",
}


def define_flags() -> None:
    """Defines the flags besides `--config`."""
    string = flags.DEFINE_string
    string("videos", None, "Folder of the videos. (default: none; needed)")
    string("captions", None, "CSV of video and caption. (default: none; needed)")
    string("output", None, "The run's folder. (default: runs/CAPTIONS_METHOD)")
    flags.DEFINE_bool(
        "leave_out",
        False,
        "Leave out the rows of the CSV that have mistakes, instead of ending.",
    )
    for name, meaning in _FIELDS.items():
        string(name, None, meaning)


def as_fields(arguments: Sequence[str]) -> list[str]:
    """A command line with the flags of fields spelled `--config.FIELD=VALUE`.

    Args:
        arguments: without the program's name.

    Returns:
        The same with the installed configuration, unless another one is named, as
        `--config=FILE`.
    """
    left, found = list(arguments), []
    while left:
        argument = fold(left.pop(0), _FIELDS)
        name, equals, value = (
            argument.removeprefix("-").removeprefix("-").partition("=")
        )
        if argument.startswith("-") and name in {*_FIELDS, "config"}:
            if not equals and left:
                value = left.pop(0)
            argument = f"--config{f'.{name}' if name in _FIELDS else ''}={value}"
        found.append(argument)
    if any(x.startswith("--config=") for x in found):
        return found
    return [f"--config={_CONFIG}:method={METHOD},dataset=custom", *found]


def run_train(given: flags.FlagValues) -> None:
    """Runs the steps for the parsed flags."""
    for name, what in (("videos", "the folder of your videos"), ("captions", "a CSV")):
        if getattr(given, name) is None:
            raise UserError(f"--{name} is missing, {what}; see --help")
    # Imported late, so that a typing mistake is answered without a wait.
    from ml_collections import config_flags

    from vop_jax.training.config import check_config

    values = given.config.to_dict()
    config = check_config(values)
    if config.dataset != "custom":
        raise UserError(
            f"config.dataset is {config.dataset}, but --videos and --captions are a "
            "data set of their own, custom; leave config.dataset out"
        )
    for name in ("videos", "captions", "output"):
        check_local(getattr(given, name) or "", f"--{name}")
    output = given.output
    captions = expanded(given.captions, "--captions")
    if output is None:
        output = f"runs/{captions.stem}_{config.method}"
    from vop_jax.own_data.steps import Asked, train_on_own

    overridden = config_flags.get_override_values(given["config"])
    train_on_own(
        Asked(
            expanded(given.videos, "--videos"),
            captions,
            expanded(output, "--output"),
            given.leave_out,
            frozenset(overridden) | _short_form(sys.argv),
        ),
        values,
    )


def _short_form(arguments: Sequence[str]) -> set[str]:
    """The fields of the short form that a person has set."""
    given = [x for x in arguments if x.startswith("--config=")]
    # Of several, the last one is read.
    short = given[-1].partition(":")[2]
    default = as_fields([])[0].partition(":")[2]
    return {
        part.partition("=")[0]
        for part in short.removeprefix(default).split(",")
        if "=" in part
    }


if __name__ == "__main__":
    sys.argv[1:] = as_fields(sys.argv[1:])
    run_command(run_train, usage=__doc__, define=define_flags)
