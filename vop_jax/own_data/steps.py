"""The steps of `vop-jax train --videos --captions`: check, prepare, choose, train."""

import json
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from data_pipelines.console.counted import counted
from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import inform, say, warn
from data_pipelines.decoding.video_files import VideoFiles
from data_pipelines.decoding.workers import Workers
from data_pipelines.preparing.prepare import prepare, prepared_path, report_lines
from data_pipelines.preparing.provenance import read_provenance
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.methods import find_method
from vop_jax.own_data import choices
from vop_jax.own_data.captions_file import read_captions
from vop_jax.own_data.known import Known, changes, looked_at, read_known, unreadable
from vop_jax.own_data.memory import free_memory
from vop_jax.own_data.mistakes import rows_of
from vop_jax.own_data.outcome import next_steps, show_results
from vop_jax.own_data.pairs import Pairs, as_csv, pairs_of, tell_unused, with_splits
from vop_jax.runtime.files import in_room, write_atomically
from vop_jax.runtime.run_folder import RunFolder, flat_fields
from vop_jax.training.config import (
    ADDED_FIELDS,
    FREE_FIELDS,
    RunConfig,
    as_begun,
    check_config,
)
from vop_jax.training.job import run_job
from vop_jax.training.preflight import check_backbone, check_fields
from vop_jax.training.run import known_sizes
from vop_jax.weights.config_file import load_size
from vop_jax.weights.frame_recipes import resizing_of
from vop_jax.weights.locate import configured_folder

DATASET = "custom"
# What is written beside the files of the run.
KNOWN, CAPTIONS, DATA = "own_data.json", "captions.csv", "data"


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
    checked = time.perf_counter()

    # The frames are decoded once.
    with in_room(folder.path, config.data_dir):
        _prepare(asked, folder, config, size, pairs, known)
    prepared = time.perf_counter()

    # What is not set is chosen, or was when the run began.
    config = with_choices(asked, folder, values, size)
    done = folder.results.exists()
    if done:
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
            f"prepare, {trained - prepared:.1f} s to train and score"
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
    if known is not None:
        return known
    if folder.config.exists():
        raise UserError(
            f"{asked.output} holds a run that was not made from a file of captions; "
            "use another --output"
        )
    for path in (captions, asked.output / DATA):
        if path.exists():
            raise UserError(
                f"{path} is in the way, it is not of this command; use another --output"
            )
    return None


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
    for video, reason in bad.items():
        rows = rows_of(pairs.rows[video])
        warn(f"left out: {asked.captions}, {rows}: {video} cannot be read ({reason})")
    used = with_splits(asked.captions, pairs.without(list(bad)))
    if new:
        tell_unused(pairs, files)
    return used, known


def _prepare(
    asked: Asked,
    folder: RunFolder,
    config: RunConfig,
    size: ClipSize,
    pairs: Pairs,
    known: Known,
) -> None:
    """Decodes the videos into shards, unless that is done."""
    captions, content = asked.output / CAPTIONS, as_csv(pairs).encode()
    frames = config.num_frames, size.image_size, resizing_of(size)
    path = Path(prepared_path(DATASET, config.data_dir, *frames))
    folder.path.mkdir(parents=True, exist_ok=True)
    # The first file that is written: it says whose the others are.
    write_atomically(asked.output / KNOWN, json.dumps(known))
    if not captions.exists() or captions.read_bytes() != content:
        # Shards of captions that were changed before a run began on them.
        own = asked.output / DATA
        if not folder.config.exists() and path.is_relative_to(own):
            shutil.rmtree(path, ignore_errors=True)
        write_atomically(captions, content)
    new = not path.is_dir()
    prepare(
        DATASET,
        config.data_dir,
        videos=asked.videos,
        annotations=captions,
        num_frames=config.num_frames,
        image_size=size.image_size,
        resizing=resizing_of(size),
        allow_missing_test=True,
    )
    if new:
        for line in report_lines(path):
            say(line)


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
    frames = config.num_frames, size.image_size, resizing_of(size)
    path = prepared_path(DATASET, config.data_dir, *frames)
    videos = sizes["train"]
    captions = read_provenance(path)["splits"]["train"]["captions"]
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
