"""What a film of two hours costs, compared with OpenCV: time and memory.

    PYTHONPATH=DIR python -m benchmarks.long_film [--frames=12,120,1200] [--json]

`benchmarks.decoding` says what DIR holds. A clip is repeated packet by packet, so that
the film takes seconds to make and as long to decode as any. Each measurement has a
process of its own; `moments` decodes all of the film, 12 frames for every 8 seconds.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av

from benchmarks.report import peak_mib

SIZE = 224
CLIP_SECONDS, RATE = 20, 25
GROUPS = ("h264, GOP 250", "h264, GOP 250, B-frames")


def repeat(source: Path, target: Path, times: int) -> Path:
    """Writes a clip several times in a row; packets are copied as they are."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [(bytes(x), x) for x in old.demux(video=0) if x.size]
        length = sum(packet.duration or 0 for _, packet in packets)
        for turn in range(times):
            for data, packet in packets:
                copy = av.Packet(data)
                copy.pts = (packet.pts or 0) + turn * length
                copy.dts = (packet.dts or 0) + turn * length
                copy.duration, copy.time_base = packet.duration, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                new.mux(copy)
    return target


def _ours(path: Path, count: int) -> None:
    from data_pipelines.decoding.frames import decode_uniform

    decode_uniform(path, count, image_size=SIZE)


def _moments(path: Path, count: int) -> None:
    from data_pipelines.decoding.moments import decode_moments

    for _ in decode_moments(path, count, 8.0, SIZE):
        pass


def _seek(path: Path, count: int) -> None:
    import cv2  # pyright: ignore[reportMissingImports]

    from benchmarks.decoding import read
    from data_pipelines.decoding.sampling import uniform_indices

    capture = cv2.VideoCapture(str(path))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    for index in uniform_indices(total, count):
        read(capture, index)
    capture.release()


LOADERS: dict[str, Callable[[Path, int], None]] = {
    "ours": _ours,
    "seek": _seek,
    "moments": _moments,
}


def measure(loader: str, path: Path, count: int) -> dict[str, float]:
    """Runs a loader in this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    before = used.ru_utime + used.ru_stime
    started = time.perf_counter()
    LOADERS[loader](path, count)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_seconds": used.ru_utime + used.ru_stime - before,
        "wall_seconds": time.perf_counter() - started,
        "peak_megabytes": peak_mib(),
    }


def _in_process(loader: str, path: Path, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.long_film", "--film", str(path)]
    command += ["--loader", loader, "--frames", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    """Makes the films, measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--frames", default="12,120,1200", help="uniform frames")
    parser.add_argument("--loader", choices=LOADERS, help="one alone, in this process")
    parser.add_argument("--film", type=Path, help="the file for --loader")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    counts = [int(count) for count in flags.frames.split(",")]
    if flags.loader:
        print(json.dumps(measure(flags.loader, flags.film, counts[0])))
        return
    from benchmarks.decoding import encode, film

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, group in enumerate(GROUPS):
            clip, path = (Path(folder) / f"{x}_{place}.mp4" for x in ("clip", "film"))
            encode(clip, film(RATE * CLIP_SECONDS, 180, 320, 0), group)
            repeat(clip, path, round(flags.hours * 3600 / CLIP_SECONDS))
            runs = [(loader, count) for count in counts for loader in ("ours", "seek")]
            for loader, count in [*runs, ("moments", 12)]:
                found = _in_process(loader, path, count)
                results[f"{group}, {count} frames, {loader}"] = found
                if not flags.json:
                    cpu, wall, peak = found.values()
                    print(
                        f"{group}: {count} frames, {loader}: {cpu:.1f} s of CPU, "
                        f"{wall:.1f} s, {peak:.0f} MiB",
                        flush=True,
                    )
    if flags.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
