"""The demo's annotations: real mp4 files, rendered where they are missing."""

from pathlib import Path

from data_pipelines.annotations import Annotations, Video
from data_pipelines.demo import world
from data_pipelines.demo.clip import ClipSpec, captions_of, render_clip
from data_pipelines.demo.video_file import write_video
from data_pipelines.terminal import progress

VIDEO_SIZE = 96


def read(folder: Path) -> Annotations:
    """Renders into a folder the clips that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    found = Annotations({}, [], by_path=True)
    for split, clips in world.sample_clips().items():
        videos = found.splits.setdefault(split, [])
        with progress(f"rendering {split}", total=len(clips), unit="videos") as bar:
            for clip in clips:
                path = folder / f"{clip.clip_id}.mp4"
                if not path.exists():
                    write_video(path, render_clip(clip, VIDEO_SIZE))
                said = captions(clip, split)
                videos.append(Video(clip.clip_id, (path.name,), said, extras(clip)))
                bar.advance()
    return found


def captions(clip: ClipSpec, split: str) -> tuple[str, ...]:
    """All captions in training, one in evaluation, each form in its turn.

    A pair of twins shares its form, so that only the event's words tell them apart.
    """
    every = captions_of(clip)
    return every if split == "train" else (every[clip.group % len(every)],)


def extras(clip: ClipSpec) -> dict[str, int | str]:
    """Where the clip stands in its group."""
    return {
        "family": clip.family,
        "group": clip.group,
        "variant": clip.variant,
        "twin": clip.twin,
    }
