"""CPU time to decode a video file to 12 frames of 224 pixels, compared with OpenCV.

    pip install --target=DIR --no-deps -r requirements-benchmarks.txt
    PYTHONPATH=DIR python -m benchmarks.decoding [--videos=FOLDER] [--rounds=5] [--json]

Without a folder it encodes clips of its own, one group for each encoding. The loaders
do what such loaders commonly do:

* `seek`: cv2 seeks to each of 12 uniformly spaced frames and reads it.
* `second`: cv2 seeks to the first frame of every second and reads it; all of them are
  resized, and 12 are picked.

All decode in one process, in turns, and return the same kind of array.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2  # pyright: ignore[reportMissingImports]
import numpy as np

from data_pipelines.decoding.frames import decode_uniform
from data_pipelines.decoding.images import resize_frame
from data_pipelines.decoding.sampling import uniform_indices

FRAMES, SIZE = 12, 224
# Name of the group -> encoder, its options, frames between keyframes, B-frames.
GROUPS = {
    "h264, GOP 250": ("libx264", {"preset": "medium"}, 250, 0),
    "h264, GOP 250, B-frames": ("libx264", {"preset": "medium"}, 250, 3),
    "h264, GOP 12": ("libx264", {"preset": "medium"}, 12, 0),
    "h264, GOP 12, B-frames": ("libx264", {"preset": "medium"}, 12, 2),
    "HEVC": (
        "libx265",
        {"preset": "ultrafast", "x265-params": "log-level=none"},
        250,
        3,
    ),
    "VP9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, 128, 0),
    "AV1": ("libsvtav1", {"preset": "12"}, 161, 0),
}
# At least so many times faster than either loader.
BAR, BAR_GOP_250 = 2.5, 4.0


def film(count: int, height: int, width: int, seed: int) -> np.ndarray:
    """Soft shapes that drift over each other with a little grain, `[T, H, W, 3]`."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(3):
        coarse = rng.integers(0, 256, (height // 16, width // 8, 3), np.uint8)
        layers.append(cv2.resize(coarse, (2 * width, height)).astype(np.float32))
    frames = []
    for t in range(count):
        moved = [
            np.roll(layer, (1 + i) * t, axis=1)[:, :width]
            for i, layer in enumerate(layers)
        ]
        grain = rng.normal(0, 4, (height, width, 1))
        frames.append(np.clip(np.mean(moved, axis=0) + grain, 0, 255).astype(np.uint8))
    return np.stack(frames)


def encode(path: Path, frames: np.ndarray, group: str) -> None:
    """Writes a clip of 25 frames a second."""
    codec, options, gop, between = GROUPS[group]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        stream.codec_context.max_b_frames = between
        # A scene cut would put keyframes where the group says there are none.
        scene = {"sc_threshold": "0"} if codec == "libx264" else {}
        stream.options = {**options, **scene}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))


def ours(path: Path) -> np.ndarray:
    """As `data_pipelines.prepare` does it."""
    frames = decode_uniform(path, FRAMES).frames
    return np.stack([resize_frame(frame, SIZE) for frame in frames])


def read(capture: cv2.VideoCapture, index: int) -> np.ndarray:
    """Sends cv2 to a frame, and resizes it as CLIP does."""
    capture.set(cv2.CAP_PROP_POS_FRAMES, index)
    found, frame = capture.read()
    if not found:
        raise RuntimeError(f"no frame {index}")
    return resize_frame(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), SIZE)


def seek(path: Path) -> np.ndarray:
    """Sends cv2 to each of the frames."""
    capture = cv2.VideoCapture(str(path))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = [read(capture, i) for i in uniform_indices(total, FRAMES)]
    capture.release()
    return np.stack(frames)


def second(path: Path) -> np.ndarray:
    """Reads a frame a second and picks from those."""
    capture = cv2.VideoCapture(str(path))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    rate = max(1, round(capture.get(cv2.CAP_PROP_FPS)))
    frames = [read(capture, i) for i in range(0, total, rate)]
    capture.release()
    return np.stack([frames[i] for i in uniform_indices(len(frames), FRAMES)])


LOADERS: dict[str, Callable[[Path], np.ndarray]] = {
    "ours": ours,
    "seek": seek,
    "second": second,
}


def measure(paths: list[Path], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of a video by loader, taken in turns.

    A loader that cannot read the files is left out.
    """
    taken: dict[str, list[float]] = {name: [] for name in LOADERS}
    for turn in range(rounds + 1):
        for name in list(taken):
            before = time.process_time()
            try:
                for path in paths:
                    LOADERS[name](path)
            except RuntimeError:
                del taken[name]
                continue
            # The first turn warms caches up.
            if turn:
                taken[name].append((time.process_time() - before) / len(paths))
    return {name: 1e3 * statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Encodes, measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, help="measure the files of this folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=2, help="clips of a group")
    parser.add_argument("--seconds", type=int, default=20, help="length of a clip")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        groups = {"files": sorted(flags.videos.iterdir())} if flags.videos else {}
        for group in () if flags.videos else GROUPS:
            groups[group] = []
            for clip in range(flags.clips):
                path = Path(folder) / f"{len(groups)}_{clip}.mp4"
                encode(path, film(25 * flags.seconds, 240, 320, clip), group)
                groups[group].append(path)
        for group, paths in groups.items():
            found = measure(paths, flags.rounds)
            others = [name for name in found if name != "ours"]
            ratios = {f"{name}/ours": found[name] / found["ours"] for name in others}
            bar = BAR_GOP_250 if "GOP 250" in group else BAR
            reached = all(ratio >= bar for ratio in ratios.values())
            results[group] = {**found, **ratios, "bar": bar, "reached": reached}
            if not flags.json:
                times = ", ".join(f"{name} {x:.1f} ms" for name, x in found.items())
                faster = ", ".join(f"{name} {x:.1f}" for name, x in ratios.items())
                faster = faster or "cv2 cannot read it"
                print(f"{group}: {times}; {faster} (bar {bar})", flush=True)
    if flags.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
