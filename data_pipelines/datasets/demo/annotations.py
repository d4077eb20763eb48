"""The demo's annotations; its mp4 files are rendered if they are missing."""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_pipelines.catalog.annotations import Annotations, Video
from data_pipelines.console.surroundings import usable_cores
from data_pipelines.console.terminal import progress
from data_pipelines.datasets.demo import world
from data_pipelines.datasets.demo.clip import ClipSpec, captions_of, render_clip
from data_pipelines.datasets.demo.video_file import write_video

VIDEO_SIZE = 96


def read(folder: Path) -> Annotations:
    """Renders the missing clips into a folder and returns the annotations."""
    folder.mkdir(parents=True, exist_ok=True)
    found = Annotations({}, [], by_path=True)
    for split, clips in world.sample_clips().items():
        _render(folder, split, clips)
        found.splits[split] = [
            Video(clip.clip_id, (_file(clip),), captions(clip, split), extras(clip))
            for clip in clips
        ]
    return found


def _file(clip: ClipSpec) -> str:
    return f"{clip.clip_id}.mp4"


def _render(folder: Path, split: str, clips: Sequence[ClipSpec]) -> None:
    """Renders the missing clips of a split, one on each core."""
    # Drawing and encoding hold Python's lock for a small part of their time.
    pool = ThreadPoolExecutor(usable_cores())
    try:
        with progress(f"rendering {split}", total=len(clips), unit="videos") as bar:
            for _ in pool.map(functools.partial(_render_missing, folder), clips):
                bar.advance()
    finally:
        pool.shutdown(cancel_futures=True)


def _render_missing(folder: Path, clip: ClipSpec) -> None:
    path = folder / _file(clip)
    if not path.exists():
        write_video(path, render_clip(clip, VIDEO_SIZE))


def captions(clip: ClipSpec, split: str) -> tuple[str, ...]:
    """All captions for training; one for evaluation, with the sentence forms in turn.

    Twins get the same form, so that only the words for the event tell them apart.
    """
    every = captions_of(clip)
    return every if split == "train" else (every[clip.group % len(every)],)


def extras(clip: ClipSpec) -> dict[str, int | str]:
    """The position of a clip in its group."""
    return {
        "family": clip.family,
        "group": clip.group,
        "variant": clip.variant,
        "twin": clip.twin,
    }
