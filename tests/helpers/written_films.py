"""Films written frame by frame, and decoded from start to end."""

from fractions import Fraction

import av
import numpy as np


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
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        if gaps:
            stream.codec_context.time_base = Fraction(1, 1000)
        stream.width, stream.height = size[1], size[0]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        if codec != "gif":
            stream.gop_size = gop
        if codec == "libx264":
            stream.options = {"bf": str(bframes), "preset": "veryfast"}
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none", "preset": "ultrafast"}
        if codec == "libsvtav1":
            stream.options = {"preset": "12"}
        base = rng.integers(0, 256, (*size, 3))
        time = 0
        for i in range(count):
            pixels = np.roll(base, 3 * i, axis=1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
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
