"""Search in long films: is the scene found that a query describes?

    python -m benchmarks.moments [--checkpoint=demo] [--films=40] [--queries=200]
        [--json=FILE]

Every film is twenty scenes of eight seconds of the demo's world in random order, with a
title of two seconds before each, in one of several containers and codecs. A query names
an appearance ("a red circle on a black background"). Compared are:

* `moments`: the share of queries whose first hit shows a scene with that appearance for
  at least half of its time;
* `one film`: the same of searches in one film that has the appearance, as many pairs of
  a film and an appearance as `--queries` says; by chance any of its windows shows it;
* `shots`: as `moments`, the films cut where their scenes change (`--cut=shots`);
* `one vector`: one embedding a film, the film found counts if any of its scenes has the
  appearance, which by chance is often so;
* `ceiling`: every scene a file of its own, so no window cuts it.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from benchmarks.report import machine
from data_pipelines.console.arguments import Parser
from data_pipelines.console.errors import command
from data_pipelines.console.ranges import Range, number
from data_pipelines.console.terminal import progress, quiet_libraries, say, table
from data_pipelines.datasets.demo.annotations import VIDEO_SIZE
from data_pipelines.datasets.demo.clip import ClipSpec, film, render_clip
from data_pipelines.datasets.demo.drawing import COLOURS
from data_pipelines.datasets.demo.world import sample_clips
from vop_jax.index.answers import Filters
from vop_jax.index.video_index import VideoIndex

SCENES, SCENE_SECONDS, TITLE_SECONDS = 20, 8, 2
RATE = 12
# Seconds of the windows that films are cut into.
WINDOW = 8.0
# Suffix and encoder with its options, in turns.
CODECS = (
    ("mp4", "libx264", {"crf": "20", "g": "250"}),
    ("mkv", "libx264", {"crf": "20", "g": "48", "bf": "0"}),
    ("avi", "mpeg4", {"q": "4"}),
    ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "24"}),
)


class Look(NamedTuple):
    """The appearance of one object in a scene."""

    colour: str
    shape: str
    background: str

    def query(self) -> str:
        """The look in words."""
        return f"a {self.colour} {self.shape} on a {self.background} background"


class Scene(NamedTuple):
    """A scene of a film: its looks, and when it is shown, seconds."""

    looks: frozenset[Look]
    start: float
    end: float


def looks_of(clip: ClipSpec) -> frozenset[Look]:
    """The appearance of a clip's objects at any time."""
    names = {rgb: name for name, rgb in COLOURS.items()}
    return frozenset(
        Look(names[tuple(colour)], track.shape, clip.background)
        for track in clip.tracks
        for _, colour in track.colour
    )


def write_film(path: Path, codec: int, scenes: Sequence[np.ndarray]) -> None:
    """Writes scenes `uint8 [T, H, W, 3]` one after another."""
    _, name, options = CODECS[codec]
    with av.open(path, "w") as container:
        stream: Any = container.add_stream(name, rate=RATE, options=options)
        stream.width = stream.height = VIDEO_SIZE
        stream.pix_fmt = "yuv420p"
        for frames in scenes:
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(frame, "rgb24")
                container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def scene_of(clip: ClipSpec) -> np.ndarray:
    """The frames of a clip, slowed down to a scene."""
    frames = render_clip(clip, VIDEO_SIZE)
    count = SCENE_SECONDS * RATE
    return frames[np.arange(count) * len(frames) // count]


def title(rng: np.random.Generator) -> np.ndarray:
    """Stripes on grey, as lettering."""
    frame = np.full((VIDEO_SIZE, VIDEO_SIZE, 3), 110, np.uint8)
    for row in rng.integers(VIDEO_SIZE // 4, 3 * VIDEO_SIZE // 4, 3):
        frame[row : row + 3, VIDEO_SIZE // 6 : -VIDEO_SIZE // 6] = 235
    return np.tile(film(frame[None]), (TITLE_SECONDS * RATE, 1, 1, 1))


def write_films(
    folder: Path, alone: Path, count: int
) -> tuple[dict[str, list[Scene]], dict[str, Scene]]:
    """Writes films, and their scenes as files of their own; returns what they show."""
    rng = np.random.default_rng(0)
    splits = sample_clips()
    clips = [clip for name in ("test", "train") for clip in splits[name]]
    films, scenes = {}, {}
    with progress("writing", total=count, unit="films") as bar:
        for number in range(count):
            codec = number % len(CODECS)
            name = f"film{number:02}.{CODECS[codec][0]}"
            chosen = rng.choice(len(clips), SCENES, replace=False)
            parts, shown = [], []
            for i, at in enumerate(chosen):
                frames = scene_of(clips[at])
                start = i * (SCENE_SECONDS + TITLE_SECONDS) + TITLE_SECONDS
                scene = Scene(looks_of(clips[at]), start, start + SCENE_SECONDS)
                shown.append(scene)
                parts += [title(rng), frames]
                own = f"film{number:02}_{i:02}.{CODECS[codec][0]}"
                write_film(alone / own, codec, [frames])
                scenes[own] = scene
            # In a folder of its own, which a search can be limited to.
            place = folder / f"film{number:02}"
            place.mkdir()
            write_film(place / name, codec, parts)
            films[f"{place.name}/{name}"] = shown
            bar.advance()
    return films, scenes


def is_right(look: Look, scenes: Sequence[Scene], start: float, end: float) -> bool:
    """Whether half of a stretch shows a scene with a look."""
    return any(
        look in scene.looks
        and min(end, scene.end) - max(start, scene.start) >= 0.5 * (end - start)
        for scene in scenes
    )


def ask_in_one_film(
    index: VideoIndex, model: Any, shown: dict[str, list[Scene]], queries: int
) -> dict[str, float]:
    """Asks for appearances in films that are named; returns the measurements."""
    pairs = [
        (name, look)
        for name, scenes in sorted(shown.items())
        for look in sorted({look for scene in scenes for look in scene.looks})
    ]
    rng = np.random.default_rng(2)
    asked = [pairs[i] for i in rng.permutation(len(pairs))[:queries]]
    right, chance = [], []
    for name, look in asked:
        filters = Filters(folder=name.partition("/")[0])
        found = index.search(model, [look.query()], top=1, filters=filters)
        (hit,) = found.answers[0].hits
        right.append(is_right(look, shown[hit.video], hit.start, hit.end))
        chance.append(_chance(look, shown[name]))
    return {
        "one_film_queries": len(asked),
        "one_film_right_percent": 100 * float(np.mean(right)),
        "one_film_by_chance_percent": 100 * float(np.mean(chance)),
    }


def _chance(look: Look, scenes: Sequence[Scene]) -> float:
    """The part of a film's windows that show a look for at least half of their time."""
    windows = np.arange(0, scenes[-1].end, WINDOW)
    return float(np.mean([is_right(look, scenes, x, x + WINDOW) for x in windows]))


def measure(checkpoint: str, films: int, queries: int, work: Path) -> dict[str, Any]:
    """Writes, indexes and searches; returns the measurements by name."""
    from vop_jax.api import load

    model = load(checkpoint)
    folder, alone = work / "films", work / "scenes"
    folder.mkdir()
    alone.mkdir()
    shown, scenes = write_films(folder, alone, films)
    every = sorted({look for film in shown.values() for x in film for look in x.looks})
    rng = np.random.default_rng(1)
    looks = [every[i] for i in rng.permutation(len(every))[:queries]]

    def first_hits(
        videos: Path, seconds: float, name: str, cut: str = "windows"
    ) -> list[Any]:
        began = time.perf_counter()
        with VideoIndex.create(work / name, cut=cut) as index:
            summary = index.update(model, videos, checkpoint, moment_seconds=seconds)
            found = index.search(model, [look.query() for look in looks], top=1)
            took = time.perf_counter() - began
            if name == "moments":
                figures.update(ask_in_one_film(index, model, shown, queries))
        figures[f"{name}_index_seconds"] = round(took, 1)
        figures[f"{name}_moments"] = summary.moments
        return [answer.hits[0] for answer in found.answers]

    figures: dict[str, Any] = {"films": films, "queries": len(looks)}
    for name, cut in (("moments", "windows"), ("shots", "shots")):
        hits = first_hits(folder, WINDOW, name, cut)
        right = [
            is_right(look, shown[hit.video], hit.start, hit.end)
            for look, hit in zip(looks, hits, strict=True)
        ]
        figures[f"{name}_right_percent"] = 100 * float(np.mean(right))
    hits = first_hits(folder, 1e6, "one_vector")
    right = [
        any(look in scene.looks for scene in shown[hit.video])
        for look, hit in zip(looks, hits, strict=True)
    ]
    figures["one_vector_right_percent"] = 100 * float(np.mean(right))
    chance = [
        np.mean([any(look in x.looks for x in film) for film in shown.values()])
        for look in looks
    ]
    figures["one_vector_by_chance_percent"] = 100 * float(np.mean(chance))
    hits = first_hits(alone, 1e6, "ceiling")
    right = [
        look in scenes[hit.video].looks for look, hit in zip(looks, hits, strict=True)
    ]
    figures["ceiling_right_percent"] = 100 * float(np.mean(right))
    return figures


@command
def main() -> None:
    """Parses the flags and measures."""
    parser = Parser("benchmarks.moments", __doc__)
    parser.add_argument(
        "--checkpoint", default="demo", help="a run's folder; the bare backbone"
    )
    count = number(int, Range(1, 10_000))
    parser.add_argument("--films", type=count, default=40, help="number of films")
    parser.add_argument("--queries", type=count, default=200, help="most queries")
    parser.add_argument("--json", type=Path, help="file for the measurements")
    flags = parser.parse_args()
    quiet_libraries()
    say(json.dumps(machine()))
    with tempfile.TemporaryDirectory() as work:
        figures = measure(flags.checkpoint, flags.films, flags.queries, Path(work))
    table("moments", ["figure", "value"], [list(x) for x in figures.items()])
    if flags.json:
        report = {"machine": machine(), **figures}
        flags.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
