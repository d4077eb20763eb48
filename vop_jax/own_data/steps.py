"""The steps of `vop-jax train --videos --captions`: check, prepare, choose, train."""

import dataclasses
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax

from data_pipelines.console.counted import counted
from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import inform, say, warn
from data_pipelines.decoding.video_files import VideoFiles
from data_pipelines.decoding.workers import Workers
from data_pipelines.feeding.split import held_out_count
from data_pipelines.preparing.provenance import read_provenance
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.methods import find_method
from vop_jax.own_data import choices
from vop_jax.own_data.captions_file import read_captions
from vop_jax.own_data.frames import (
    CAPTIONS,
    DATA,
    KNOWN,
    frames_of,
    prepare_frames,
)
from vop_jax.own_data.known import (
    Known,
    changes,
    looked_at,
    read_known,
    unreadable,
    unreadable_lines,
)
from vop_jax.own_data.memory import free_memory
from vop_jax.own_data.outcome import check_data, check_results, next_steps, show_results
from vop_jax.own_data.pairs import Pairs, pairs_of, tell_unused, with_splits
from vop_jax.runtime.files import in_room
from vop_jax.runtime.run_folder import RunFolder, flat_fields
from vop_jax.training.config import (
    ADDED_FIELDS,
    FREE_FIELDS,
    RunConfig,
    as_begun,
    check_config,
)
from vop_jax.training.job import run_job
from vop_jax.training.preflight import check_backbone, check_fields, check_sizes
from vop_jax.training.run import known_sizes
from vop_jax.weights.config_file import load_size
from vop_jax.weights.locate import configured_folder


class Asked(NamedTuple):
    """What a command asks for.

    Attributes:
        videos: folder of the videos.
        captions: the file of captions.
        output: the run's folder.
        leave_out: whether rows with mistakes are left out.
        given: the fields of the configuration that are set on the command line.
    """

    videos: Path
    captions: Path
    output: Path
    leave_out: bool
    given: frozenset[str]


def train_on_own(asked: Asked, values: dict[str, Any]) -> dict[str, Any]:
    """Trains on the videos of a folder, or resumes; tells what it chose and found.

    Args:
        asked: what for.
        values: the configuration as nested values, to which the choices are added.

    Returns:
        The content of `results.json`.

    Raises:
        UserError: a mistake in the captions, the videos or the configuration.
    """
    began = time.perf_counter()
    # Nothing is written before all captions are found to be in order.
    files = VideoFiles(asked.videos)
    folder = RunFolder(asked.output, "--output")
    folder.check_place()
    table = read_captions(asked.captions)
    known = _left_by_earlier(asked, folder)
    if table.form:
        inform(f"{table.path}: read as {table.form}")
    pairs = pairs_of(table, files, leave_out=asked.leave_out)
    # The backbone, which says what frames it takes, may have to be fetched.
    if "data_dir" not in asked.given:
        values["data_dir"] = str(asked.output / DATA)
    size = load_size(configured_folder(check_config(values).backbone))
    config = _checked(asked, folder, values, size)
    pairs, known = _looked_at(asked, files, folder, pairs, known)
    if "batch_size" in asked.given and not folder.is_run():
        _check_batch(config, pairs)
    checked = time.perf_counter()

    # The frames are decoded once.
    with in_room(folder.path, config.data_dir):
        prepare_frames(
            asked.output,
            frames_of(config, size),
            files,
            pairs,
            known,
            begun=folder.config.exists(),
        )
    prepared = time.perf_counter()

    # What is not set is chosen, or was when the run began.
    config = with_choices(asked, folder, values, size)
    done = folder.is_run() and folder.results.exists()
    if done:
        check_data(folder, read_provenance(frames_of(config, size).path))
        say(f"{asked.output} is trained on these videos and captions already")
    else:
        run_job(config, folder)
    trained = time.perf_counter()
    results = folder.read_results()
    show_results(results)
    for line in next_steps(asked.output, asked.videos, pairs):
        say(line)
    if not done:
        say(
            f"took {checked - began:.1f} s to check, {prepared - checked:.1f} s to "
            f"decode the videos, {trained - prepared:.1f} s to train and score"
        )
    return results


def _left_by_earlier(asked: Asked, folder: RunFolder) -> Known | None:
    """What an earlier command knew of its videos; None if the output is free.

    Raises:
        UserError: the output holds files of someone else, which would be replaced.
    """
    captions = asked.output / CAPTIONS
    if captions.exists() and captions.samefile(asked.captions):
        raise UserError(
            f"--captions={asked.captions} is where the captions are written as they "
            "are used; use another --output"
        )
    known = read_known(asked.output / KNOWN)
    if folder.config.exists():
        if known is None or not folder.is_run():
            raise UserError(
                f"{asked.output} holds a run that was not made from a file of "
                "captions; use another --output"
            )
        check_results(folder)
        return known
    # A run writes its configuration before all of these.
    in_the_way = [
        *(folder.results, folder.tuned, folder.report, folder.metrics),
        *(folder.checkpoints, folder.tensorboard),
        *((captions, asked.output / DATA) if known is None else ()),
    ]
    for path in in_the_way:
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise UserError(
                f"{path} is in the way, it is not of this command; use another --output"
            )
    return known


def _checked(
    asked: Asked, folder: RunFolder, values: dict[str, Any], size: ClipSize
) -> RunConfig:
    """The configuration, held against all that is known before films are decoded.

    Raises:
        UserError: it does not fit the backbone, or is not that of the folder's run.
    """
    config = check_config(values)
    begun = folder.is_run()
    if begun:
        config = with_choices(asked, folder, values, size)
    if config.row.trained:
        check_fields(config)
    check_backbone(config, size)
    if begun:
        folder.check(as_begun(config, folder).as_json(), FREE_FIELDS, ADDED_FIELDS)
    return config


def _looked_at(
    asked: Asked,
    files: VideoFiles,
    folder: RunFolder,
    pairs: Pairs,
    known: Known | None,
) -> tuple[Pairs, Known]:
    """The pairs to use, with their splits, and what is known of all of them.

    Raises:
        UserError: too few videos can be read, or the folder's run is of other ones.
    """
    change = changes(known, pairs, files) if known else ""
    if change and folder.config.exists():
        raise UserError(
            f"{asked.captions} or its videos are not what {asked.output} was trained "
            f"on ({change}); use another --output to train on what there is now"
        )
    new = known is None or bool(change)
    if known is None or change:
        known = looked_at(pairs, files, Workers())
    bad = unreadable(known)
    for line in unreadable_lines(bad, pairs.rows, files):
        warn(f"left out: {asked.captions}, {line}")
    used = with_splits(asked.captions, pairs.without(list(bad)))
    if new:
        tell_unused(pairs, files)
    return used, known


def _check_batch(config: RunConfig, pairs: Pairs) -> None:
    """Checks a batch size that is set against the videos, before they are decoded.

    Raises:
        UserError: the training videos do not make one batch.
    """
    counts, held = Counter(pairs.split_of[x] for x in pairs.captions), 0
    train = counts["train"]
    if not counts["validation"] and not config.train_on_holdout:
        held = held_out_count(train, config.holdout)
    # How many pairs are held out is not known yet.
    if config.epoch_of == "pairs":
        said = pairs.captions.items()
        train = sum(len(y) for x, y in said if pairs.split_of[x] == "train")
        held = 0
    # The number of epochs, and so of steps to trace, may not be chosen yet.
    bare = dataclasses.replace(config, profile_steps="")
    check_sizes(bare, jax.device_count(), {"train": train - held}, held)


def with_choices(
    asked: Asked, folder: RunFolder, values: dict[str, Any], size: ClipSize
) -> RunConfig:
    """The configuration with what was chosen, now or when the run began.

    Args:
        asked: which fields are set.
        folder: of the run.
        values: the configuration as nested values; the choices are added.
        size: of the backbone.
    """
    if folder.is_run():
        kept = flat_fields(folder.read_config())
        for field in choices.FIELDS:
            if field in kept and field not in asked.given:
                _set(values, field, kept[field])
        return check_config(values)
    config = check_config(values)
    if "method" not in asked.given:
        trained = find_method(config.method).about
        say(
            f"chose method {config.method} ({trained}): {choices.METHOD_REASON}; "
            "override with --method"
        )
    facts = _facts(config, size)
    for choice in choices.choose(facts, flat_fields(values), set(asked.given)):
        _set(values, choice.field, choice.value)
        say(choice.line)
    return check_config(values)


def _facts(config: RunConfig, size: ClipSize) -> choices.Facts:
    sizes, held = known_sizes(config, size)
    videos = sizes["train"]
    captions = read_provenance(frames_of(config, size).path)["splits"]["train"][
        "captions"
    ]
    # Of held-out videos the captions are not known apart.
    pairs = max(videos, captions * videos // (videos + held))
    validated = f"{counted(sizes['validation'], 'video')} to validate"
    say(
        f"{counted(videos, 'video')} to train on, {validated}, "
        f"{counted(sizes['test'], 'video')} to test; a column split chooses them"
    )
    if videos < choices.FEW:
        warn(
            f"{counted(videos, 'training video')} are few: the tuned model may be "
            "worse than the untuned backbone, to which it is compared at the end"
        )
    device = jax.local_devices()[0]
    return choices.Facts(videos, pairs, jax.device_count(), free_memory(device), size)


def _set(values: dict[str, Any], field: str, value: Any) -> None:
    *outer, last = field.split(".")
    for name in outer:
        values = values[name]
    values[last] = value
