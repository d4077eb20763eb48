"""Search over a folder of the demo's films: speed, what is found, a run broken off.

    python -m benchmarks.search [--checkpoint=RUN] [--json=FILE]

The folder holds the 256 test films, a broken, an empty and a text file called .mp4, and
a file that is no video. Indexing is killed in the middle and started again; queries
name the look of a film ("a red circle on a black background"), and the first film found
is held against it, as a whole and colour, shape and background apart.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.arguments import Parser
from data_pipelines.demo.annotations import VIDEO_SIZE
from data_pipelines.demo.clip import ClipSpec, render_clip
from data_pipelines.demo.drawing import COLOURS
from data_pipelines.demo.video_file import write_video
from data_pipelines.demo.world import sample_clips
from data_pipelines.errors import UserError, command
from data_pipelines.terminal import progress, quiet_libraries, table
from vop_jax.demo import BACKBONE
from vop_jax.video_index import VideoIndex

SPOILT = ("broken.mp4", "empty.mp4", "text.mp4")


def render(folder: Path, clips: list[ClipSpec]) -> None:
    """Writes the films, and the files that are none."""
    with progress("rendering", total=len(clips), unit="videos") as bar:
        for clip in clips:
            path = folder / f"{clip.clip_id}.mp4"
            write_video(path, render_clip(clip, VIDEO_SIZE))
            bar.advance()
    whole = (folder / f"{clips[0].clip_id}.mp4").read_bytes()
    contents = whole[: len(whole) // 2], b"", b"these are words, not frames"
    for name, content in zip(SPOILT, contents, strict=True):
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("no video by its name\n")


class Look(NamedTuple):
    """What one object of a film looks like."""

    colour: str
    shape: str
    background: str

    def query(self) -> str:
        """The look in words."""
        return f"a {self.colour} {self.shape} on a {self.background} background"


def looks_of(clip: ClipSpec) -> set[Look]:
    """The looks of a clip's objects at any moment of it."""
    names = {rgb: name for name, rgb in COLOURS.items()}
    return {
        Look(names[tuple(colour)], track.shape, clip.background)
        for track in clip.tracks
        for _, colour in track.colour
    }


def _stored(index: Path) -> int:
    try:
        with VideoIndex.open(index) as file:
            return len(file._file.embeddings()[0])
    except UserError:
        return 0


def index_broken_off(call: list[str], index: Path) -> int:
    """Starts indexing and kills it once something is stored; how much that is."""
    process = subprocess.Popen(
        call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not _stored(index):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return _stored(index)


def _indexed(call: list[str], report: Path) -> dict[str, Any]:
    subprocess.run([*call, f"--report={report}"], check=True, stdout=subprocess.DEVNULL)
    return json.loads(report.read_text())


def measure(folder: Path, checkpoint: str) -> dict[str, Any]:
    """Renders, indexes and queries; the figures by name."""
    clips = sample_clips()["test"]
    videos, index = folder / "videos", folder / "films.index"
    videos.mkdir()
    render(videos, clips)
    command = [sys.executable, "-m", "vop_jax.search", "index"]
    command += [f"--videos={videos}", f"--checkpoint={checkpoint}"]
    # Whole, in one go, for the speed; then once more in two.
    speed = _indexed([*command, f"--output={folder / 'whole'}"], folder / "whole.json")
    kept = index_broken_off([*command, f"--output={index}"], index)
    summary = _indexed([*command, f"--output={index}"], folder / "report.json")
    if kept + summary["indexed"] != len(clips):
        raise UserError(f"{kept} and {summary['indexed']} are not {len(clips)} films")
    return {
        "videos": len(clips),
        "index_seconds_per_video": round(speed["seconds"] / len(clips), 4),
        "stored_before_the_kill": kept,
        "indexed_after_it": summary["indexed"],
        "unreadable": {
            os.path.basename(x["path"]): x["status"] for x in summary["unreadable"]
        },
        "not_video": summary["not_video"],
        **query(index, clips, checkpoint),
    }


def query(index: Path, clips: list[ClipSpec], checkpoint: str) -> dict[str, Any]:
    """Asks for looks, one query at a time."""
    from vop_jax.model import load

    model = load(checkpoint)
    looks = {f"{clip.clip_id}.mp4": looks_of(clip) for clip in clips}
    every = sorted(set().union(*looks.values()))
    right = dict.fromkeys(("whole", *Look._fields), 0)
    seconds = []
    with VideoIndex.open(index) as file:
        # The first one compiles.
        file.search(model, [every[0].query()])
        for look in every:
            began = time.perf_counter()
            found = file.search(model, [look.query()])
            seconds.append(time.perf_counter() - began)
            shown = looks[found.hits[0][0].path]
            right["whole"] += look in shown
            for name in Look._fields:
                right[name] += getattr(look, name) in {getattr(x, name) for x in shown}
    shares = {name: round(100 * n / len(every), 1) for name, n in right.items()}
    return {
        "queries": len(every),
        "query_milliseconds": round(1000 * float(np.median(seconds)), 2),
        **{f"top1_right_{name}_percent": share for name, share in shares.items()},
    }


@command
def main() -> None:
    """Parses the flags and measures."""
    parser = Parser("benchmarks.search", __doc__)
    parser.add_argument(
        "--checkpoint", default=str(BACKBONE), help="a run's folder; the bare backbone"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    flags = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), flags.checkpoint)
    table("search", ["figure", "value"], [list(x) for x in figures.items()])
    if flags.json:
        flags.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
