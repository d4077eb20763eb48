"""A search index of many moments: writing, indexing, opening, disk, memory, queries.

    python -m benchmarks.search [--moments=100000,300000,1000000] [--size=512]
        [--json=FILE]

Vectors are drawn around the centres of scenes, ten moments a video, so that a query has
near neighbours as real ones have. Queries are noisy moments; the recall is against
comparing all moments. One process writes and indexes, another opens and searches; the
peak memory of each is reported. A recall below 0.98 ends the command with status 1.
"""

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import machine, peak_mib
from data_pipelines.console.arguments import Parser
from data_pipelines.console.errors import UserError, command
from data_pipelines.console.terminal import progress, quiet_libraries, say, table
from vop_jax.index import approximate
from vop_jax.index.meta import Meta
from vop_jax.index.store import Store
from vop_jax.index.tables import MomentRow, VideoRow, new_id
from vop_jax.index.video_index import VideoIndex

# Moments of a video, and of an append.
PER_VIDEO, APPENDED = 10, 20_000
# Directions in which scenes differ, and how far moments lie around their scene.
RANK, SPREAD, NOISE = 64, 0.5, 2.0
QUERIES = 200
# What the approximate index must find.
RECALL = 0.98
_MIB = 1 << 20


class Vectors:
    """Stands in for a model: a text is the number of one of its vectors."""

    fingerprint, num_frames, dtype = "benchmark", 12, "float32"

    def __init__(self, vectors: np.ndarray):
        self._vectors = vectors

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """The vectors of these numbers."""
        return self._vectors[[int(text) for text in texts]]


def draw(count: int, size: int) -> Iterator[np.ndarray]:
    """Unit vectors float32 `[n, size]`, in blocks of `APPENDED`."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(RANK, size)).astype(np.float32)
    scenes = rng.normal(size=(max(10, count // 30), RANK)).astype(np.float32)
    for first in range(0, count, APPENDED):
        n = min(APPENDED, count - first)
        near = scenes[rng.integers(0, len(scenes), n)]
        near = near + SPREAD * rng.normal(size=near.shape).astype(np.float32)
        rows = near @ basis + NOISE * rng.normal(size=(n, size)).astype(np.float32)
        yield rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(place: Path, count: int, size: int) -> None:
    """Writes an index of synthetic moments, through the store's own appends."""
    made = ("benchmark", 12, "float32", size, 8.0)
    meta = Meta(*made, videos=str(place.parent))
    store = Store(place)
    store.begin(size)
    store.record("identity", meta.identity)
    store.record("place", meta.place)
    # As large as real ones, and as hard to compress.
    pictures = np.random.default_rng(2)
    number = 0
    with progress("writing", total=count, unit="moments") as bar:
        for block in draw(count, size):
            moments, videos = [], []
            for first in range(0, len(block), PER_VIDEO):
                name, part = new_id(), block[first : first + PER_VIDEO]
                moments += [
                    MomentRow(name, i, 8.0 * i, 8.0 * i + 8, x, pictures.bytes(4_000))
                    for i, x in enumerate(part.astype(np.float16))
                ]
                about = (f"{number:07}.mp4", 1, 1, f"{number:032}", name, len(part))
                videos.append(
                    VideoRow(
                        *(new_id(), *about, 8.0 * len(part), 320, 240, "ok", ""),
                        meta.digest,
                    )
                )
                number += 1
            store.append(moments, videos)
            bar.advance(len(block))
    store.close()


def queries_of(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy moments, and the similarity of the tenth best moment to each."""
    rng = np.random.default_rng(1)
    blocks = list(draw(count, size))
    chosen = np.concatenate(blocks)[rng.integers(0, count, QUERIES)]
    noise = rng.normal(size=chosen.shape).astype(np.float32)
    queries = chosen + 0.5 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    best = np.full((QUERIES, 0), -np.inf, np.float32)
    for block in blocks:
        stored = block.astype(np.float16).astype(np.float32)
        best = np.concatenate([best, queries @ stored.T], axis=1)
        best = -np.sort(-best, axis=1)[:, :10]
    return queries, best[:, -1]


def measure(count: int, size: int, folder: str) -> dict[str, Any]:
    """Every measurement at one number of moments."""
    place = str(Path(folder) / "index")
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found = pool.apply(build, (place, count, size))
    queries, tenth = queries_of(count, size)
    with context.Pool(1) as pool:
        return found | pool.apply(search, (place, queries, tenth))


def build(place: str, count: int, size: int) -> dict[str, Any]:
    """Writes and indexes moments; for a process that does nothing else."""
    quiet_libraries()
    found: dict[str, Any] = {"moments": count}
    began = time.perf_counter()
    write(Path(place), count, size)
    found["write_seconds"] = time.perf_counter() - began
    store = Store(Path(place))
    began, used = time.perf_counter(), time.process_time()
    store.tidy(3600.0)
    found["approximate"] = approximate.refresh(store)
    found["index_seconds"] = time.perf_counter() - began
    found["index_cpu_seconds"] = time.process_time() - used
    store.close()
    files = (x.stat().st_size for x in Path(place).rglob("*") if x.is_file())
    found["disk_mib"] = sum(files) / _MIB
    found["index_peak_mib"] = peak_mib()
    return found


def search(place: str, queries: np.ndarray, tenth: np.ndarray) -> dict[str, Any]:
    """Opens and searches an index; for a process that does nothing else."""
    model: Any = Vectors(queries)
    began = time.perf_counter()
    with VideoIndex.open(place) as index:
        index.search(model, ["0"])
        opened = time.perf_counter() - began
        seconds = []
        for number in range(len(queries)):
            began = time.perf_counter()
            index.search(model, [str(number)])
            seconds.append(time.perf_counter() - began)
    _, *ranks = statistics.quantiles(seconds, n=20)
    return {
        "open_seconds": opened,
        "p50_ms": 1000 * statistics.median(seconds),
        "p95_ms": 1000 * ranks[-1],
        "recall": recall_of(place, queries, tenth),
        "search_peak_mib": peak_mib(),
    }


def recall_of(place: str, queries: np.ndarray, tenth: np.ndarray) -> float:
    """Recall@10 of moments, before neighbours are joined to stretches."""
    from vop_jax.index.source import Source

    source = Source(Path(place))
    view = source.view()
    if view.vectors is not None:
        return 1.0
    right = 0
    for query, least in zip(queries, tenth, strict=True):
        scored, _ = approximate.scored(view, query, 10, None)
        best = -np.sort(-scored.similarities)[:10]
        right += int((best >= least - 1e-4).sum())
    source.close()
    return right / (10 * len(queries))


@command
def main() -> None:
    """Parses the flags and measures."""
    parser = Parser("benchmarks.search", __doc__)
    parser.add_argument(
        "--moments", default="100000,300000,1000000", help="numbers of moments"
    )
    parser.add_argument("--size", type=int, default=512, help="of an embedding")
    parser.add_argument("--json", type=Path, help="file for the measurements")
    flags = parser.parse_args()
    if not all(text.isdecimal() for text in flags.moments.split(",")):
        raise UserError(
            f"--moments is {flags.moments}; pass numbers, such as 1000,2000"
        )
    quiet_libraries()
    rows: list[dict[str, Any]] = []
    say(json.dumps(machine()))
    for count in map(int, flags.moments.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(count, flags.size, folder))
        say(json.dumps(rows[-1]))
    report = {"machine": machine(), "size": flags.size, "rows": rows}
    names = list(rows[0])
    shown = [[f"{row[name]:,.4g}" for name in names] for row in rows]
    table("search", names, shown)
    if flags.json:
        flags.json.write_text(json.dumps(report, indent=1) + "\n")
    low = [row["moments"] for row in rows if row["recall"] < RECALL]
    if low:
        raise SystemExit(f"recall below {RECALL} at {low} moments")


if __name__ == "__main__":
    main()
