"""Small real video files for the tests."""

import csv

import numpy as np

from data_pipelines.datasets.demo.video_file import write_video


def film(path, frames=4, grey=80):
    """An mp4 of 16 by 16 pixels that gets lighter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lights = np.arange(frames, dtype=np.uint8) * 8 + grey
    pixels = np.broadcast_to(lights[:, None, None, None], (frames, 16, 16, 3))
    write_video(path, np.ascontiguousarray(pixels))
    return path


def custom_set(folder, train=2, validation=2, test=2, captions=2):
    """A `custom` data set: `videos/` and `rows.csv`, in an order no sorting gives."""
    rows = []
    for split, count in (("train", train), ("validation", validation), ("test", test)):
        for i in reversed(range(count)):
            name = f"{split}{i}.mp4"
            film(folder / "videos" / name, grey=40 + 3 * i)
            rows += [(name, f"{split} {i} said {c}", split) for c in range(captions)]
    with (folder / "rows.csv").open("w") as file:
        csv.writer(file).writerows([("video", "caption", "split"), *rows])
    return folder


def crc32c(content):
    """The masked checksum of TFRecord files."""
    value = 0xFFFFFFFF
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
