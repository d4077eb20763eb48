"""Decoding against a plain sequential decode of the whole file."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines.frames import (
    VideoError,
    decode_uniform,
    encode_jpeg,
    resize_and_crop,
    uniform_indices,
)


def write(path, codec="libx264", count=40, gop=12, size=(48, 64), bframes=2, gaps=None):
    """A video of smooth noise whose frames all differ."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
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


def test_the_uniform_rule():
    assert uniform_indices(24, 8) == [1, 4, 7, 10, 13, 16, 19, 22]
    assert uniform_indices(12, 12) == list(range(12))
    assert uniform_indices(3, 5) == [0, 1, 2, 2, 2]
    # linspace(0, 10, 4) as integers: 0, 3, 6, 10.
    assert uniform_indices(10, 3) == [1, 4, 7]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"gop": 12}),
        ("a.mp4", {"gop": 250}),
        ("a.mp4", {"gop": 250, "bframes": 0}),
        ("a.mp4", {"count": 5}),
        ("a.mp4", {"size": (50, 34)}),
        ("a.mp4", {"gaps": [40, 15, 90, 33]}),
        ("a.mkv", {"gop": 9}),
        ("a.ts", {"gop": 12}),
        ("a.mp4", {"codec": "libx265"}),
        ("a.webm", {"codec": "libvpx-vp9", "count": 16}),
        ("a.mp4", {"codec": "libsvtav1", "size": (64, 64), "count": 16}),
        ("a.gif", {"codec": "gif", "count": 10}),
    ],
)
def test_frames_are_those_of_a_full_decode(tmp_path, name, options):
    path = write(tmp_path / name, **options)
    every = decode_all(path)
    decoded = decode_uniform(path, 8)
    assert decoded.total_frames == len(every)
    expected = [every[i] for i in uniform_indices(len(every), 8)]
    np.testing.assert_array_equal(decoded.frames, expected)
    assert ("short" in decoded.notes) == (len(every) < 8)


def test_what_gives_no_frames_is_an_error(tmp_path):
    with pytest.raises(VideoError) as error:
        decode_uniform(tmp_path / "none.mp4", 4)
    assert error.value.status == "missing"
    for name, content in (("empty.mp4", b""), ("text.mp4", b"no video at all" * 99)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError) as error:
            decode_uniform(tmp_path / name, 4)
        assert error.value.status == "unreadable"


def test_a_file_that_was_cut_off_is_an_error(tmp_path):
    whole = write(tmp_path / "whole.mkv").read_bytes()
    mp4 = write(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(mp4[: len(mp4) // 2])
    with pytest.raises(VideoError) as error:
        decode_uniform(tmp_path / "cut.mp4", 4)
    assert error.value.status in ("unreadable", "truncated", "corrupt")
    assert len(whole) > len(mp4) // 2


@pytest.mark.parametrize("shape", [(60, 80), (81, 47), (224, 224), (30, 31)])
def test_resizing_is_that_of_pil(shape):
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    size = 32
    short = min(shape)
    scaled = [max(size, int(size * x / short)) for x in reversed(shape)]
    image = Image.fromarray(frame).resize(scaled, Image.Resampling.BICUBIC)
    left, top = (round((x - size) / 2) for x in scaled)
    expected = image.crop((left, top, left + size, top + size))
    np.testing.assert_array_equal(resize_and_crop(frame, size), expected)


def test_jpeg_keeps_colour_at_full_resolution():
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[:, ::2] = (255, 0, 0)
    frame[:, 1::2] = (0, 0, 255)
    import io

    again = np.asarray(Image.open(io.BytesIO(encode_jpeg(frame))))
    # With subsampled chroma the stripes would mix to purple.
    assert np.abs(again.astype(int) - frame).mean() < 12
