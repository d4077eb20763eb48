"""Loads the search server: many at once, idle connections, previews, memory.

    python -m benchmarks.server [--videos=DIR] [--requests=5000] [--json=FILE]

Without `--videos` some clips of the demo are rendered, one of them as MPEG-4 in AVI,
which browsers do not play. The server is `vop_jax.search serve` with the demo's
backbone, in a process of its own; this one asks.
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

from data_pipelines.datasets.demo.clip import render_clip
from data_pipelines.datasets.demo.world import sample_clips

# Requests of the first part, how many at once, and idle connections beside them.
REQUESTS, AT_ONCE, IDLE = 500, 50, 300
# What must hold: seconds of a page, seconds of a preview, growth of memory.
PAGE_SECONDS, PREVIEW_SECONDS, GROWTH_MIB = 0.3, 1.5, 64
QUERIES = ("a red circle moves up", "a blue square", "a green ring grows", "x " * 400)


def write_clips(folder: Path, count: int = 24) -> None:
    """Clips of four seconds; the first is one that browsers do not play."""
    for i, clip in enumerate(sample_clips()["test"][:: 256 // count][:count]):
        name, codec = ("first.avi", "mpeg4") if not i else (f"{i:02}.mp4", "libx264")
        frames = render_clip(clip, 480 if not i else 96)
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for at in np.linspace(0, len(frames) - 1, 300 if not i else 100):
                picture = av.VideoFrame.from_ndarray(frames[round(at)], "rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))


@contextmanager
def served(videos: Path, folder: Path) -> Iterator[tuple[int, subprocess.Popen]]:
    """The port and the process of a server of a new index."""
    index = folder / "index"
    search = [sys.executable, "-m", "vop_jax.search"]
    made = ["index", f"--videos={videos}", "--checkpoint=demo", f"--output={index}"]
    subprocess.run([*search, *made], check=True)
    process = subprocess.Popen(
        [*search, "serve", f"--index={index}", "--port=0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        if found is None:
            raise SystemExit(f"the server says {line!r}")
        yield int(found[1]), process
    finally:
        process.terminate()
        status = process.wait(20)
        print(f"server ended with status {status}")


async def get(port: int, path: str) -> tuple[int, float, float, bytes]:
    """Status, seconds to the first byte, seconds in all, and content of an answer."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    content = await reader.read(65536)
    first = time.perf_counter() - began
    content += await reader.read()
    writer.close()
    head, _, body = content.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head else 0
    return status, first, time.perf_counter() - began, body


async def many(port: int, count: int, at_once: int) -> list[tuple[int, float]]:
    """Status and seconds of many pages."""
    places = asyncio.Semaphore(at_once)

    async def one(i: int) -> tuple[int, float]:
        query = urllib.parse.quote(QUERIES[i % len(QUERIES)])
        async with places:
            status, _, seconds, _ = await get(port, f"/?q={query}")
        return status, seconds

    return await asyncio.gather(*map(one, range(count)))


def memory(process: subprocess.Popen) -> float:
    """Resident memory of a process, MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else 0.0


async def measure(port: int, process: subprocess.Popen, total: int) -> dict[str, Any]:
    """All figures."""
    found: dict[str, Any] = {}
    pages = [await get(port, "/?q=a+red+circle") for _ in range(20)]
    found["page_seconds"] = statistics.median(x[2] for x in pages)
    found["page_seconds_most"] = max(x[2] for x in pages)
    long = [await get(port, "/api/search?q=" + "a" + "+red" * n) for n in range(40)]
    found["query_seconds_most"] = max(x[2] for x in long)

    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(IDLE)]
    began = time.perf_counter()
    answers = await many(port, REQUESTS, AT_ONCE)
    found["burst_seconds"] = time.perf_counter() - began
    statuses = [status for status, _ in answers]
    found["burst_statuses"] = {str(x): statuses.count(x) for x in sorted({*statuses})}
    found["burst_seconds_median"] = statistics.median(x for _, x in answers)
    found["burst_seconds_most"] = max(x for _, x in answers)
    for _, writer in idle:
        writer.close()

    first = {"video": "first.avi", "end": 8.0}
    times = []
    for start in (0.0, 1.0, 2.0):
        query = urllib.parse.urlencode({**first, "start": start})
        began = time.perf_counter()
        # As a click does: the place of the clip, then the clip.
        await get(port, f"/play?{query}")
        status, _, _, _ = await get(port, f"/preview?{query}")
        times.append(time.perf_counter() - began)
        if status != 200:
            times.append(float("inf"))
    found["preview_seconds"] = statistics.median(times)

    await many(port, total // 5, 4)
    found["memory_mib_before"] = memory(process)
    await many(port, total, 4)
    found["memory_mib_after"] = memory(process)
    return found


def main() -> None:
    """Measures, prints, and ends with status 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description="Loads the search server.")
    parser.add_argument("--videos", type=Path, help="a folder (default: the demo's)")
    parser.add_argument("--requests", type=int, default=5000, help="for the memory")
    parser.add_argument("--json", type=Path, help="file for the figures")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = flags.videos or folder / "videos"
        if flags.videos is None:
            videos.mkdir()
            write_clips(videos)
        with served(videos, folder) as (port, process):
            found = asyncio.run(measure(port, process, flags.requests))
    print(json.dumps(found, indent=1))
    if flags.json:
        flags.json.write_text(json.dumps(found, indent=1) + "\n")
    bars = {
        "all answered or refused": {*found["burst_statuses"]} <= {"200", "503"},
        "a page": found["page_seconds"] <= PAGE_SECONDS,
        "a preview": found["preview_seconds"] <= PREVIEW_SECONDS,
        "a query of any length": found["query_seconds_most"] <= 0.1,
        "memory": found["memory_mib_after"] - found["memory_mib_before"] <= GROWTH_MIB,
    }
    missed = [name for name, held in bars.items() if not held]
    if missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
