"""Video files that are unusual, or not what their name says."""

import struct
from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition
from written_films import write

SQUARE = 1 << 16


def cut(path, bytes_left=-2000):
    path.write_bytes(path.read_bytes()[:bytes_left])
    return path


def turned(path, a, b, c, d):
    """A picture without symmetry, displayed by a matrix."""
    y, x = np.mgrid[:48, :64]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        matrix = [a, b, 0, c, d, 0, 0, 0, SQUARE]
        stream.set_display_matrix([SQUARE * value for value in matrix[:8]] + [1 << 30])
        for i in range(8):
            pixels = np.stack([4 * x, 5 * y, 0 * x + 20 * i], -1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return path


def with_aspect(path, width, height):
    """An mp4 whose pixels are so wide for their height; its header says so."""
    write_with(path, lambda stream: None, "sar=4/3")
    content = bytearray(path.read_bytes())
    start = content.index(b"pasp") + 4
    content[start : start + 8] = struct.pack(">II", width, height)
    path.write_bytes(content)
    return path


def write_with(path, change, params="", count=8, size=(48, 64), **options):
    """Smooth noise with some parameter of libx264."""
    rng = np.random.default_rng(1)
    base = rng.integers(0, 256, (*size, 3))
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        stream.options = {"preset": "veryfast", "x264-params": params}
        if params.startswith("sar="):
            over, under = params.removeprefix("sar=").split("/")
            stream.codec_context.sample_aspect_ratio = Fraction(int(over), int(under))
            stream.options = {"preset": "veryfast"}
        change(stream)
        for i in range(count):
            pixels = np.roll(base, 3 * i, axis=1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return path


def hdr(path, transfer="smpte2084"):
    params = f"transfer={transfer}:colorprim=bt2020:colormatrix=bt2020nc"
    return write_with(path, lambda stream: None, params)


def resized(path):
    """A transport stream whose frames get larger."""
    parts = [
        write(path.with_suffix(f".{i}.ts"), size=size, count=20).read_bytes()
        for i, size in enumerate([(48, 64), (64, 64)])
    ]
    path.write_bytes(b"".join(parts))
    return path


def streams(path, sizes, dispositions=()):
    """Several video streams, each of one grey: 40, 80, 120, ..."""
    with av.open(str(path), "w") as container:
        added = []
        for height, width in sizes:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            added.append(stream)
        for stream, disposition in zip(added, dispositions, strict=False):
            stream.disposition = disposition
        for _ in range(6):
            for grey, stream in enumerate(added, 1):
                pixels = np.full(
                    (stream.height, stream.width, 3), min(40 * grey, 255), np.uint8
                )
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                container.mux(stream.encode(frame))
        for stream in added:
            container.mux(stream.encode(None))
    return path


def sound(path, cover=False):
    """Sound alone, or with the picture of a cover."""
    with av.open(str(path), "w") as container:
        codec = "pcm_s16le" if path.suffix == ".wav" else "aac"
        stream = container.add_stream(codec, rate=8000, layout="mono")
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width = picture.height = 32
            picture.pix_fmt = "yuvj420p"
            picture.disposition = Disposition.attached_pic
            pixels = np.zeros((32, 32, 3), np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        sample = "s16" if codec == "pcm_s16le" else "fltp"
        kind = np.int16 if sample == "s16" else np.float32
        for _ in range(4):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), kind), sample, "mono"
            )
            frame.rate = 8000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def gif(path, width=8000, height=8000):
    """A GIF of a few bytes whose frame is as large as it says."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0)
    colours = b"\0\0\0\xff\xff\xff"
    image = struct.pack("<BHHHHB", 0x2C, 0, 0, width, height, 0)
    path.write_bytes(b"GIF89a" + screen + colours + image + b"\2\2\x44\1\0\x3b")
    return path


def hole(path):
    """A gap of zeros in the pictures of an mp4."""
    write(path, count=60)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 2000
    content[start : start + 1000] = bytes(1000)
    path.write_bytes(content)
    return path


def elsewhere(path, other, **options):
    """A mov whose samples are said to lie in another file."""
    content = write(path, **options).read_bytes()
    place = content.index(b"dref") - 4
    old = content[place : place + int.from_bytes(content[place : place + 4], "big")]
    name = other.encode()
    record = bytes(10) + b"\0" + bytes(27 + 12)
    record += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    record += struct.pack(">hh", 1, 1) + bytes(16)
    record += struct.pack(">hh", 2, len(name)) + name + b"\0" * (len(name) % 2)
    record += struct.pack(">hh", -1, 0)
    alias = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    new = struct.pack(">I4sII", 16 + len(alias), b"dref", 0, 1) + alias
    data = bytearray(content.replace(old, new))
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        start = data.index(kind) - 4
        size = int.from_bytes(data[start : start + 4], "big") + len(new) - len(old)
        data[start : start + 4] = size.to_bytes(4, "big")
    path.write_bytes(data)
    return path


def check_no_moments(read, folder):
    """What gives no moments has a status; `read` gives the moments and the end."""
    assert read(folder / "none.mp4")[1].status == "missing"
    (folder / "text.mp4").write_bytes(b"no video at all" * 99)
    assert read(folder / "text.mp4")[1].status == "unreadable"
    assert read(sound(folder / "a.wav"))[1].status == "no_video"
    path = write(folder / "a.mp4")
    assert read(path, max_bytes=99)[1].status == "too_large"
    gif(folder / "a.gif")
    assert read(folder / "a.gif")[1].status == "too_large"
