"""Films written frame by frame, and decoded from start to end."""

from fractions import Fraction

import av
import numpy as np
from PIL import Image


def write(
    path,
    codec="libx264",
    count=40,
    gop=12,
    size=(48, 64),
    bframes=2,
    gaps=None,
    options=None,
):
    """A video of smooth noise whose frames all differ."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (*size, 3))
    frames = (np.roll(base, 3 * i, axis=1).astype(np.uint8) for i in range(count))
    return write_frames(path, frames, codec, gop, bframes, gaps, options)


def write_frames(
    path, frames, codec="libx264", gop=12, bframes=2, gaps=None, options=None
):
    """A video of these pictures; `gaps` are milliseconds between them, in turns."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        if gaps:
            stream.codec_context.time_base = Fraction(1, 1000)
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        if codec != "gif":
            stream.gop_size = gop
        if codec == "libx264":
            stream.options = {"bf": str(bframes), "preset": "veryfast"}
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none", "preset": "ultrafast"}
        if codec == "libsvtav1":
            stream.options = {"preset": "12"}
        time = 0
        for i, pixels in enumerate(frames):
            if not i:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            if gaps:
                frame.time_base = Fraction(1, 1000)
                frame.pts = time
                time += gaps[i % len(gaps)]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode_all(path):
    with av.open(str(path)) as container:
        return [x.to_ndarray(format="rgb24") for x in container.decode(video=0)]


def write_shots(path, lengths, codec="libx264", gaps=None, size=(48, 64), **options):
    """A video of shots of so many frames, each a slowly moving picture."""
    rng = np.random.default_rng(1)
    shots = []
    for place, length in enumerate(lengths):
        base = rng.integers(0, 60, (2, 3, 3))
        # Neighbours differ in brightness and colour.
        base = base + ((20, 60, 150) if place % 2 else (180, 90, 40))
        picture = np.array(
            Image.fromarray(base.astype(np.uint8)).resize(
                size[::-1], Image.Resampling.BILINEAR
            )
        )
        shots += [np.roll(picture, i // 4, axis=1) for i in range(length)]
    return write_frames(path, shots, codec, gaps=gaps, **options)
