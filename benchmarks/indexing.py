"""Indexing a folder of videos, against a plain loop of OpenCV and open_clip.

    pip install --target=DIR --no-deps -r requirements-benchmarks.txt
    PYTHONPATH=DIR python -m benchmarks.indexing [--videos=200] [--rounds=3]
        [--sides=NAME,...] [--json=FILE]
    python -m benchmarks.indexing --hours=2 --sides=ours_float32 --checkpoint=demo

Videos of 20 s, 640x360, H.264, HEVC, VP9 and MPEG-4 in turns, are indexed with a CLIP
ViT-B/32 of random weights. The plain loop does for each video what the index does, two
windows of 12 frames: OpenCV decodes the video from its beginning on and hands over the
frames that are wanted, Pillow resizes them, PyTorch embeds 32 windows at once. Each
side works in a process of its own with the model loaded and everything compiled before;
they take turns. CPU seconds are those of all processes of a side, memory the most that
they have held together.

With `--hours` one film of that length, repeated packets, is indexed instead; the plain
loop takes videos of 20 s alone. `--checkpoint` is another model, for our sides alone.
"""

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from benchmarks.long_film import repeat
from benchmarks.report import machine, peak_of_tree, publish
from data_pipelines.console.arguments import Parser
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.ranges import Range, number
from data_pipelines.console.terminal import progress, quiet_libraries, say
from data_pipelines.decoding.sampling import interval_edges, uniform_indices

SECONDS, RATE, HEIGHT, WIDTH = 20, 25, 360, 640
FRAMES, WINDOW, BATCH = 12, 8.0, 32
# Suffix, encoder, its options, and frames between key frames, in turns.
CODECS = (
    ("mp4", "libx264", {"preset": "veryfast"}, 250),
    ("mp4", "libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}, 250),
    ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, 128),
    ("avi", "mpeg4", {"q": "5"}, 12),
)
# Clips that are encoded for each codec; the others are copies of their packets.
ENCODED = 2
# Name of a side -> what works, and its dtype.
SIDES = {
    "ours_float32": ("ours", "float32"),
    "plain_float32": ("plain", "float32"),
    "ours_bfloat16": ("ours", "bfloat16"),
    "plain_bfloat16": ("plain", "bfloat16"),
}
# What is divided by what, in videos a minute and in CPU time, and the least of it.
BARS = (
    ("ours_float32", "plain_float32", 1.3),
    ("ours_bfloat16", "plain_float32", 2.5),
    ("ours_bfloat16", "plain_bfloat16", 0.0),
)


def write_clip(path: Path, codec: int, seed: int) -> None:
    """Encodes soft shapes that drift over each other with a little grain."""
    _, name, options, gop = CODECS[codec]
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(3):
        coarse = rng.integers(0, 256, (HEIGHT // 16, WIDTH // 8, 3), np.uint8)
        large = Image.fromarray(coarse).resize((2 * WIDTH, HEIGHT))
        layers.append(np.asarray(large, np.float32))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(name, rate=RATE, options=options)
        stream.height, stream.width = HEIGHT, WIDTH
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        for t in range(SECONDS * RATE):
            moved = [
                np.roll(layer, (1 + i) * t, axis=1)[:, :WIDTH]
                for i, layer in enumerate(layers)
            ]
            picture = np.mean(moved, axis=0) + rng.normal(0, 4, (HEIGHT, WIDTH, 1))
            pixels = np.clip(picture, 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def copy_clip(source: Path, target: Path, title: str) -> None:
    """Copies packets into a file of another content."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        new.metadata["title"] = title
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)


def write_videos(folder: Path, work: Path, count: int) -> None:
    """Writes the videos; of each codec a few are encoded."""
    with progress("writing", total=count, unit="videos") as bar:
        for i in range(count):
            codec, seed = i % len(CODECS), i // len(CODECS) % ENCODED
            suffix = CODECS[codec][0]
            clip = work / f"clip_{codec}_{seed}.{suffix}"
            if not clip.exists():
                write_clip(clip, codec, seed)
            copy_clip(clip, folder / f"{i:04}.{suffix}", f"video {i}")
            bar.advance()


def write_model(folder: Path) -> Path:
    """Writes an open_clip ViT-B/32 of random weights, and converts it."""
    import open_clip  # pyright: ignore[reportMissingImports]
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    name = "ViT-B-32-quickgelu"
    source = folder / "open_clip"
    source.mkdir()
    state = open_clip.create_model(name, pretrained=None).state_dict()
    save_file(state, source / "open_clip_model.safetensors")
    about = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": {}}
    (source / "open_clip_config.json").write_text(json.dumps(about))
    convert = [sys.executable, "-m", "vop_jax.convert", f"--input={source}"]
    subprocess.run([*convert, f"--output={folder / 'clip'}"], check=True)
    return folder / "clip"


class Ours:
    """`search index`, from Python."""

    def __init__(self, model: str, dtype: str):
        from vop_jax.api import load
        from vop_jax.runtime.startup import start_up

        start_up()
        self._model, self._checkpoint = load(model, dtype=dtype), model
        size = (BATCH, FRAMES, *[self._model.image_size] * 2, 3)
        for count in (BATCH, 1):
            self._model.encode_videos(np.zeros((count, *size[1:]), np.uint8))
        self._model.encode_texts(["a video"])

    def run(self, videos: Path) -> tuple[int, np.ndarray]:
        """Indexes; returns the number of moments and a few embeddings."""
        from data_pipelines.decoding.workers import shared_workers
        from vop_jax.index.video_index import VideoIndex

        with tempfile.TemporaryDirectory() as folder:
            with VideoIndex.create(Path(folder) / "index") as index:
                summary = index.update(self._model, videos, self._checkpoint)
            assert not summary.partly
            assert not summary.unreadable
            with VideoIndex.open(Path(folder) / "index") as index:
                view = index._source.view()
            assert view.vectors is not None
            rows = sorted((row.path, i) for i, (row,) in enumerate(view.videos))
            firsts = [view.first[i] for _, i in rows[:4]]
        # So that what they have used is counted.
        shared_workers().close()
        return summary.moments, view.vectors[firsts]


class Plain:
    """OpenCV, Pillow and open_clip, one after another."""

    def __init__(self, model: str, dtype: str):
        import open_clip  # pyright: ignore[reportMissingImports]
        import torch
        from safetensors.torch import load_file

        self._torch, self._bfloat16 = torch, dtype == "bfloat16"
        self._model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None)
        source = Path(model).parent / "open_clip/open_clip_model.safetensors"
        self._model.load_state_dict(load_file(source))
        self._model.eval()
        mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        self._mean, self._std = (torch.tensor(x).view(3, 1, 1) for x in (mean, std))
        self._embed([np.zeros((FRAMES, 224, 224, 3), np.uint8)])

    def _embed(self, windows: list[np.ndarray]) -> np.ndarray:
        torch = self._torch
        frames = torch.from_numpy(np.concatenate(windows)).permute(0, 3, 1, 2)
        frames = (frames.float() / 255 - self._mean) / self._std
        cast = torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16)
        with torch.inference_mode(), cast:
            found: Any = self._model.encode_image(frames).float()  # pyright: ignore
        found = found / found.norm(dim=-1, keepdim=True)
        return found.view(len(windows), FRAMES, -1).mean(dim=1).numpy()

    def _windows(self, path: Path) -> Iterator[np.ndarray]:
        import cv2  # pyright: ignore[reportMissingImports]

        capture = cv2.VideoCapture(str(path))
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        edges = interval_edges(total, round(SECONDS / WINDOW))
        place = -1
        for begin, end in itertools.pairwise(edges):
            frames = []
            for wanted in uniform_indices(end - begin, FRAMES):
                while place < begin + wanted:
                    assert capture.grab()
                    place += 1
                _, frame = capture.retrieve()
                image = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
                scale = 224 / min(image.size)
                width, height = (int(scale * x) for x in image.size)
                image = image.resize((width, height), Image.Resampling.BICUBIC)
                left, top = round((width - 224) / 2), round((height - 224) / 2)
                frames.append(
                    np.asarray(image.crop((left, top, left + 224, top + 224)))
                )
            yield np.stack(frames)
        capture.release()

    def run(self, videos: Path) -> tuple[int, np.ndarray]:
        """Embeds all windows; returns their number and a few embeddings."""
        waiting, found, firsts = [], [], []
        for path in sorted(videos.iterdir()):
            firsts.append(BATCH * len(found) + len(waiting))
            for window in self._windows(path):
                waiting.append(window)
                if len(waiting) == BATCH:
                    found.append(self._embed(waiting))
                    waiting = []
        if waiting:
            found.append(self._embed(waiting))
        features = np.concatenate(found)
        return len(features), features[firsts[:4]]


KINDS = {"ours": Ours, "plain": Plain}


def work(side: str, model: str, videos: Path) -> None:
    """Loads, says so, works when it is told to, and prints what that took."""
    quiet_libraries()
    kind, dtype = SIDES[side]
    worker = KINDS[kind](model, dtype)
    print("ready", flush=True)
    sys.stdin.readline()
    began, used = time.perf_counter(), _cpu_seconds()
    moments, features = worker.run(videos)
    found = {
        "wall_seconds": time.perf_counter() - began,
        "cpu_seconds": _cpu_seconds() - used,
        "moments": moments,
        "features": features.astype(float).tolist(),
    }
    print(json.dumps(found), flush=True)


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(x.ru_utime + x.ru_stime for x in map(resource.getrusage, kinds))


def measure(side: str, model: str, videos: Path) -> dict[str, Any]:
    """Has one side work once, in a process of its own."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.indexing", f"--work={side}"),
            *(f"--model={model}", f"--folder={videos}"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": str(os.cpu_count())},
        text=True,
    )
    assert process.stdin
    assert process.stdout
    for line in process.stdout:
        if line == "ready\n":
            break
    with peak_of_tree(process.pid) as peak:
        process.stdin.write("go\n")
        process.stdin.flush()
        lines = process.stdout.readlines()
    if process.wait():
        raise SystemExit(f"{side} ended with status {process.returncode}")
    return json.loads(lines[-1]) | {"peak_mib": peak()}


def compare(sides: list[str], rounds: int, model: str, videos: Path) -> dict[str, Any]:
    """All sides in turns; medians, ratios, and how alike their embeddings are."""
    count = len(list(videos.iterdir()))
    taken: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for turn in range(rounds):
        for side in sides if turn % 2 == 0 else reversed(sides):
            found = measure(side, model, videos)
            taken[side].append(found)
            shown = {k: round(x, 2) for k, x in found.items() if k != "features"}
            say(f"round {turn + 1}, {side}: {json.dumps(shown)}")
    report: dict[str, Any] = {"videos": count, "rounds": rounds}
    for side, found in taken.items():
        report[side] = {
            name: round(statistics.median(x[name] for x in found), 2)
            for name in ("wall_seconds", "cpu_seconds", "peak_mib", "moments")
        }
        wall = report[side]["wall_seconds"]
        report[side]["videos_per_minute"] = round(60 * count / wall, 1)
    for one, other, bar in BARS:
        if one in taken and other in taken:
            a, b = (np.array(taken[x][0]["features"]) for x in (one, other))
            lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            report[f"{one} against {other}"] = {
                "bar": bar,
                "times_faster": _ratio(taken, one, other, "wall_seconds"),
                "times_less_cpu": _ratio(taken, one, other, "cpu_seconds"),
                "least_cosine": round(float(((a * b).sum(axis=1) / lengths).min()), 5),
            }
    return report


def _ratio(taken: dict[str, Any], one: str, other: str, name: str) -> float:
    """The median over rounds, of which each has ratios of its own."""
    pairs = zip(taken[one], taken[other], strict=True)
    return round(statistics.median(b[name] / a[name] for a, b in pairs), 2)


@command
def main() -> None:
    """Makes the videos, measures, and ends with status 1 if a bar is missed."""
    parser = Parser("benchmarks.indexing", __doc__)
    count = number(int, Range(1, 100_000))
    parser.add_argument("--videos", type=count, default=200, help="number of videos")
    parser.add_argument("--rounds", type=count, default=3, help="number of rounds")
    parser.add_argument(
        "--hours",
        type=number(float, Range(0, 100)),
        default=0.0,
        help="length of one film, in place of the videos (default: no film)",
    )
    parser.add_argument(
        "--sides", default=",".join(SIDES), help="who is measured (default: all)"
    )
    parser.add_argument("--checkpoint", help="a model (default: a random ViT-B/32)")
    parser.add_argument("--json", type=Path, help="file for the measurements")
    # What the processes of the sides are told.
    parser.add_argument("--work", choices=list(SIDES), help="one side alone")
    parser.add_argument("--model", help="the model for --work")
    parser.add_argument("--folder", type=Path, help="the videos for --work")
    flags = parser.parse_args()
    if flags.work:
        work(flags.work, flags.model, flags.folder)
        return
    sides = flags.sides.split(",")
    plain = [side for side in sides if side not in SIDES or SIDES[side][0] != "ours"]
    if {*sides} - {*SIDES} or (plain and (flags.hours or flags.checkpoint)):
        raise UserError(
            f"--sides is {flags.sides}; pass some of {', '.join(SIDES)}, and with "
            "--hours or --checkpoint only ours"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = folder / "videos"
        videos.mkdir()
        if flags.hours:
            write_clip(folder / "clip.mp4", 0, 0)
            turns = round(3600 * flags.hours / SECONDS)
            repeat(folder / "clip.mp4", videos / "film.mp4", turns)
        else:
            write_videos(videos, folder, flags.videos)
        model = flags.checkpoint or str(write_model(folder))
        found = compare(sides, flags.rounds, model, videos)
    publish({"machine": machine(), "hours": flags.hours, **found}, flags.json)
    missed = [
        name
        for name, x in found.items()
        if isinstance(x, dict) and x.get("times_faster", 9.0) < x.get("bar", 0.0)
    ]
    if missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
