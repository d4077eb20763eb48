"""The prepared frames of an output, taken only for the films that they were made of."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import say
from data_pipelines.decoding.resizing import Resizing
from data_pipelines.decoding.video_files import VideoFiles
from data_pipelines.preparing.prepare import (
    is_prepared,
    prepare,
    prepared_path,
    readable,
    report_lines,
)
from data_pipelines.preparing.provenance import read_provenance
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.own_data.known import Known, replaced
from vop_jax.own_data.mistakes import some
from vop_jax.own_data.pairs import Pairs, as_csv
from vop_jax.runtime.files import write_atomically
from vop_jax.training.config import RunConfig
from vop_jax.weights.frame_recipes import resizing_of

if TYPE_CHECKING:
    from etils import epath

DATASET = "custom"
# What is written beside the files of the run.
KNOWN, CAPTIONS, DATA = "own_data.json", "captions.csv", "data"


class Frames(NamedTuple):
    """Which frames of which data folder a run reads."""

    data_dir: str
    num_frames: int
    image_size: int
    resizing: Resizing

    @property
    def path(self) -> "Path | epath.Path":
        """The folder of their shards."""
        frames = self.num_frames, self.image_size, self.resizing
        path = prepared_path(DATASET, self.data_dir, *frames)
        return path if "://" in str(path) else Path(path)


def frames_of(config: RunConfig, size: ClipSize) -> Frames:
    """The frames that a configuration trains a backbone of some size on."""
    return Frames(
        config.data_dir, config.num_frames, size.image_size, resizing_of(size)
    )


def prepare_frames(
    output: Path,
    frames: Frames,
    files: VideoFiles,
    pairs: Pairs,
    known: Known,
    *,
    begun: bool,
) -> None:
    """Decodes the videos into shards, unless that is done.

    Args:
        output: the run's folder.
        frames: which ones.
        files: of the folder of videos.
        pairs: the videos and captions that are used.
        known: what the videos were when they were looked at.
        begun: whether the output holds a run, which is trained on its frames.

    Raises:
        UserError: the shards that are there are of other films or captions and not
            this command's to replace, or a film changes while it is decoded.
    """
    content = as_csv(pairs).encode()
    films = films_of(known, pairs.captions)
    path = frames.path
    if other := _others(path, content, films):
        if begun:
            raise UserError(
                f"{output} was begun on frames of other {other} ({path}); use another "
                "--output"
            )
        if not isinstance(path, Path) or not _is_below(path, output / DATA):
            raise UserError(
                f"{path} holds frames of other {other}, or of unknown ones; use "
                "another --config.data_dir, or remove that folder"
            )
        # Before anything says what the frames are of from here on.
        _drop(path)
    output.mkdir(parents=True, exist_ok=True)
    # The first file that is written: it says whose the others are.
    write_atomically(output / KNOWN, json.dumps(known))
    captions = output / CAPTIONS
    if not captions.exists() or captions.read_bytes() != content:
        write_atomically(captions, content)
    new = not is_prepared(path)
    prepare(
        DATASET,
        frames.data_dir,
        videos=files.root,
        annotations=captions,
        num_frames=frames.num_frames,
        image_size=frames.image_size,
        resizing=frames.resizing,
        allow_missing_test=True,
        films=films,
    )
    if not new:
        return
    # Their provenance names the films as they were before they were decoded, so that
    # those of an interruption at this point are not taken for the changed ones.
    if changed := replaced(known, pairs.captions, files):
        if isinstance(path, Path):
            _drop(path)
        raise UserError(
            f"{some(changed)} changed while the videos were decoded; run the same "
            "command again"
        )
    for line in report_lines(path):
        say(line)


def films_of(known: Known, videos: Iterable[str]) -> str:
    """A hash of the content of films, which the provenance of their frames keeps."""
    about = [
        (video, known["files"][video]["size"], known["files"][video]["content"])
        for video in sorted(videos)
    ]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _others(path: "Path | epath.Path", captions: bytes, films: str) -> str:
    """What of the shards that are there is not as wanted; empty if nothing is."""
    if not is_prepared(path):
        return ""
    with readable(path) as there:
        made = read_provenance(there)
    if made.get("annotations") != {CAPTIONS: hashlib.sha256(captions).hexdigest()}:
        return "captions"
    return "" if made.get("films") == films else "films"


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a folder is in another one, which is not a link to elsewhere."""
    return path.resolve().is_relative_to(folder.parent.resolve() / folder.name)


def _drop(path: Path) -> None:
    """Removes shards; an interruption leaves no part of them in their place."""
    aside = path.parents[1] / f".{DATASET}.dropped"
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)
