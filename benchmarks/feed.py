"""CPU time of the training feed per video of 12 frames of 224 pixels.

    python -m benchmarks.feed [--data=PREPARED] [--videos=256] [--rounds=5] [--json]

Without prepared shards it generates JPEG frames of smooth shapes and noise, 34 KB each,
larger than those of real videos. `memory` holds the encoded frames in host memory,
`disk` reads each record from its file when it is needed.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.console.terminal import quiet_libraries
from data_pipelines.decoding.images import encode_jpeg

FRAMES, SIZE = 12, 224
# The most CPU milliseconds per video.
BAR = 10.0


def picture(rng: np.random.Generator) -> bytes:
    """One stored frame: soft shapes and grain."""
    coarse = rng.integers(0, 256, (14, 14, 3), np.uint8)
    soft = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 5, (SIZE, SIZE, 1))
    return encode_jpeg(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8))


def write_shard(path: Path, videos: int) -> list[int]:
    """A TFRecord file of videos; returns where each record begins."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    starts, start = [], 0
    with tf.io.TFRecordWriter(str(path)) as writer:
        for _ in range(videos):
            values = tf.train.BytesList(value=[picture(rng) for _ in range(FRAMES)])
            record = tf.train.Example(
                features=tf.train.Features(
                    feature={"frames": tf.train.Feature(bytes_list=values)}
                )
            ).SerializeToString()
            writer.write(record)
            starts.append(start)
            start += 16 + len(record)
    return starts


def made_splits(folder: Path, videos: int) -> dict:
    """The same split in memory and on disk."""
    from data_pipelines.feeding.split import DiskFrames, MemoryFrames, Split

    path = folder / "frames.tfrecord"
    starts = write_shard(path, videos)
    disk = DiskFrames([str(path)], np.zeros(videos, int), np.array(starts), FRAMES)
    encoded = np.array([disk[i] for i in range(videos)], object)
    about = (
        [str(i) for i in range(videos)],
        ["a caption"] * videos,
        np.arange(videos + 1),
        [{}] * videos,
    )
    ids, captions, start, extras = about
    return {
        name: Split("train", ids, frames, captions, start, extras)
        for name, frames in (("memory", MemoryFrames(encoded)), ("disk", disk))
    }


def prepared_splits(path: Path) -> dict:
    """The training split of prepared shards in memory and on disk."""
    from data_pipelines.feeding.split import load_split

    return {
        "memory": load_split(path, "train"),
        "disk": load_split(path, "train", max_bytes=0),
    }


def milliseconds(split, batch_size: int) -> float:
    """CPU milliseconds per video over one epoch, without start-up."""
    from data_pipelines.feeding.feed import TrainFeed

    split = split.tokenized(lambda texts: np.ones((len(texts), 8), np.int32))
    feed = TrainFeed(split, batch_size=batch_size, seed=0)
    batches = feed.batches(0, 2 + 2 * feed.steps_per_epoch)
    next(batches)
    before, count = time.process_time(), 0
    for batch in batches:
        count += len(batch["video"])
    return 1e3 * (time.process_time() - before) / count


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder that prepare returned")
    parser.add_argument("--videos", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        splits = (
            prepared_splits(flags.data)
            if flags.data
            else made_splits(Path(folder), flags.videos)
        )
        size = np.mean([len(x) for v in range(16) for x in splits["memory"].frames[v]])
        taken: dict[str, list[float]] = {name: [] for name in splits}
        for _ in range(flags.rounds):
            for name, split in splits.items():
                taken[name].append(milliseconds(split, flags.batch_size))
    found = {name: statistics.median(times) for name, times in taken.items()}
    if flags.json:
        print(json.dumps({**found, "jpeg_bytes": size, "bar": BAR}, indent=1))
        return
    for name, value in found.items():
        print(f"{name}: {value:.2f} CPU ms a video (bar {BAR}), JPEG {size:,.0f} bytes")


if __name__ == "__main__":
    main()
